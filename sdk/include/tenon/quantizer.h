#pragma once
// A quantizer turns a weight into packed tensors and back, and multiplies with them. It is a set of functions on tensors: it
// holds its options and no model state. The host owns autograd, storage, placement, threads between slots, and files.
//
// The least a quantizer brings: format, facts, resident, quantize, dequantize. Everything else has a stated default.
// Functions are const and may be called from several threads at once, for different slots or different rows.
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tenon/export.h"
#include "tenon/slot.h"
#include "tenon/value.h"

namespace tenon {

using Tensors = std::vector<at::Tensor>;  // in the order of Quantizer::resident

struct QuantizerFacts {
  double bits_per_weight = 0;                  // storage, scales included, for a large weight
  std::vector<std::string> devices = {"cpu"};  // device types it can multiply on
  std::vector<at::ScalarType> compute_dtypes = {at::kFloat, at::kBFloat16, at::kHalf};
  bool needs_calibration = false;
  bool calibrates_by_stage = false;  // what runs later in a block is observed behind what runs earlier, already quantized
  double max_relative_error = 0;     // RMS(w - deq(w)) / RMS(w) on normal weights never exceeds it; 0: not declared
};

// Yes, or no with the reason that `host plan` prints.
struct Support {
  bool yes = true;
  std::string reason;
  static Support no(std::string reason) { return {false, std::move(reason)}; }
};

// Gathers what calibration needs from the inputs of one input group. Made by the quantizer, fed by the host, one call at a time.
class TENON_API Observer {
 public:
  virtual ~Observer() = default;
  virtual void observe(const at::Tensor& x) = 0;  // [tokens, in], in the model's dtype, on the slot's device; not to be written to
};

// A tensor file as a quantizer or adapter sees it: names first, bytes only when asked for.
class TENON_API TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual std::vector<std::string> names() const = 0;
  virtual bool has(const std::string& name) const = 0;
  virtual TensorSpec spec(const std::string& name) const = 0;
  virtual at::Tensor read(const std::string& name) const = 0;  // a copy on the CPU
};

class TENON_API Quantizer {
 public:
  virtual ~Quantizer();

  // A promise about bytes, "nf4/1": other packing, other number. Files store it.
  virtual std::string format() const = 0;
  virtual QuantizerFacts facts() const = 0;
  // Default: yes for linear slots without experts, no for the rest.
  virtual Support supports(const SlotSpec& slot) const;
  // The exact tensors held in memory for this slot, in order: the plan's bytes. The bias is the host's.
  virtual std::vector<TensorSpec> resident(const SlotSpec& slot) const = 0;

  // weight: [out, in] (or [count, out, in]), floating point, contiguous, not to be written to. Returns tensors as `resident` says, on the weight's device.
  // calibration: what make_observer of a slot of the same input group made; null when no text reached the slot, or too little did: then it rounds without.
  virtual Tensors quantize(const SlotSpec& slot, const at::Tensor& weight, const Observer* calibration) const = 0;

  // Optional, for streaming a weight in panels on several cores. row_granule: the smallest number of rows that can be quantized apart;
  // 0 (default): only the whole weight. With a granule: begin allocates (scratch allowed), quantize_rows fills [first_row, first_row + rows)
  // (multiples of the granule but for the last panel; disjoint ranges may run at once), finish returns the resident tensors. The result equals quantize().
  virtual int64_t row_granule(const SlotSpec&) const { return 0; }
  virtual Tensors begin(const SlotSpec& slot, at::Device device) const;
  virtual void quantize_rows(const SlotSpec& slot, const at::Tensor& rows, int64_t first_row, Tensors& work) const;
  virtual Tensors finish(const SlotSpec& slot, Tensors work) const;

  // Rows [first_row, last_row) as a dense [rows, in] tensor of `dtype`.
  virtual at::Tensor dequantize(const SlotSpec& slot, const Tensors& tensors, at::ScalarType dtype, int64_t first_row,
                                int64_t last_row) const = 0;
  at::Tensor dequantize(const SlotSpec& slot, const Tensors& tensors, at::ScalarType dtype) const {
    return dequantize(slot, tensors, dtype, 0, slot.out);
  }

  // x: [..., in] -> [..., out] in x's dtype, without bias. Runs without autograd. Default: dequantize, then a dense product.
  virtual at::Tensor linear(const SlotSpec& slot, const at::Tensor& x, const Tensors& tensors) const;
  // Several weights that read the same x. Default: one `linear` after another.
  struct Operand {
    const SlotSpec* slot;
    const Tensors* tensors;
  };
  virtual std::vector<at::Tensor> linear_many(std::span<const Operand> weights, const at::Tensor& x) const;
  // dy: [..., out] -> [..., in]: dy . W. Default: dequantize in row panels of at most 64 MB, then a dense product.
  virtual at::Tensor grad_input(const SlotSpec& slot, const at::Tensor& dy, const Tensors& tensors) const;
  // Embedding look-up: ids of any shape -> [..., in] in `dtype`. Default: dequantizes the distinct rows asked for.
  virtual at::Tensor rows(const SlotSpec& slot, const at::Tensor& ids, const Tensors& tensors, at::ScalarType dtype) const;
  // Experts: x [tokens, in] sorted by expert, offsets [count + 1] int64 on the CPU -> [tokens, out] in x's dtype. Rows of such a slot are its experts:
  // dequantize(e, e + 1) gives [1, out, in]. Default: dequantizes one expert after another, those with tokens alone.
  virtual at::Tensor grouped(const SlotSpec& slot, const at::Tensor& x, const at::Tensor& offsets, const Tensors& tensors) const;

  // Default: none (facts().needs_calibration is false).
  virtual std::unique_ptr<Observer> make_observer(const SlotSpec& slot) const;
  // What an observer of this slot and quantize() with it hold at most, beyond the weight and the result: for the plan. Default: 0.
  virtual int64_t calibration_bytes(const SlotSpec& slot) const;

  // Files. Default: the quantizer knows no file format, and `host export` offers only dense ones.
  // Whether config.json's quantization_config is this quantizer's; then the options that config and file imply.
  virtual std::optional<Value> recognise(const Value& quantization_config, const TensorSource& file) const;
  // Names of the file tensors that hold this slot already packed, empty when it is stored dense.
  virtual std::vector<std::string> locate(const SlotSpec& slot, const TensorSource& file) const;
  virtual Tensors unpack(const SlotSpec& slot, const TensorSource& file) const;
  virtual std::vector<NamedTensor> pack(const SlotSpec& slot, const Tensors& tensors) const;
  virtual Value quantization_config(const std::vector<std::string>& skipped_modules, at::ScalarType model_dtype) const;
};

}  // namespace tenon
