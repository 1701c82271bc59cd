#pragma once
// 4-bit blockwise quantization in bitsandbytes' layout: NF4 (QLoRA, arXiv:2305.14314) and FP4, absmax per block, optionally quantized again.
//
// Resident tensors of a weight of n elements in blocks of b:
//   codes     uint8 [ceil(n / 2), 1]   two codes a byte, the even element in the high nibble
//   absmax    float32 [ceil(n / b)]    or, with double_quant, uint8 and
//   nested    float32 [ceil(blocks / 256)]
//   offset    float32 []
#include "kernels.h"
#include "tenon/options.h"
#include "tenon/stable/quantizer.h"

namespace tenon::nf4 {

using namespace tenon::stable;

struct Options {
  int64_t block_size = 64;
  bool double_quant = false;
  std::string compute_dtype = "auto";
  std::string quant_storage = "uint8";
};
OptionTable option_table();

class Quantizer4Bit : public Quantizer {
 public:
  Quantizer4Bit(Codebook codebook, const Options& options);

  std::string format() const override { return codebook_ == Codebook::Nf4 ? "nf4/1" : "fp4/1"; }
  QuantizerFacts facts() const override;
  Support supports(const SlotSpec&) const override { return {}; }
  std::vector<TensorSpec> resident(const SlotSpec& slot) const override;

  Tensors quantize(const SlotSpec& slot, const Tensor& weight, const Observer*) const override;
  int64_t row_granule(const SlotSpec& slot) const override;
  Tensors begin(const SlotSpec& slot, Device device) const override;
  void quantize_rows(const SlotSpec& slot, const Tensor& rows, int64_t first_row, Tensors& work) const override;
  Tensors finish(const SlotSpec& slot, Tensors work) const override;

  Tensor dequantize(const SlotSpec& slot, const Tensors& tensors, ScalarType dtype, int64_t first_row, int64_t last_row) const override;
  Tensor linear(const SlotSpec& slot, const Tensor& x, const Tensors& tensors) const override;
  Tensor grouped(const SlotSpec& slot, const Tensor& x, const Tensor& offsets, const Tensors& tensors) const override;
  Tensors linear_many(const std::vector<Operand>& weights, const Tensor& x) const override;
  Tensor grad_input(const SlotSpec& slot, const Tensor& dy, const Tensors& tensors) const override;
  Tensor rows(const SlotSpec& slot, const Tensor& ids, const Tensors& tensors, ScalarType dtype) const override;

  std::optional<Value> recognise(const Value& quantization_config, const TensorSource& file) const override;
  std::vector<std::string> locate(const SlotSpec& slot, const TensorSource& file) const override;
  Tensors unpack(const SlotSpec& slot, const TensorSource& file) const override;
  std::vector<NamedTensor> pack(const SlotSpec& slot, const Tensors& tensors) const override;
  Value quantization_config(const std::vector<std::string>& skipped_modules, ScalarType model_dtype) const override;

 private:
  const char* type_name() const { return codebook_ == Codebook::Nf4 ? "nf4" : "fp4"; }
  ScalarType compute_dtype(ScalarType x) const;
  Weight view(const SlotSpec& slot, const Tensors& tensors) const;
  Codebook codebook_;
  Options options_;
};

struct Nf4 final : Quantizer4Bit {
  explicit Nf4(const Options& options) : Quantizer4Bit(Codebook::Nf4, options) {}
};
struct Fp4 final : Quantizer4Bit {
  explicit Fp4(const Options& options) : Quantizer4Bit(Codebook::Fp4, options) {}
};

}  // namespace tenon::nf4
