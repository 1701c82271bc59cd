#pragma once
// GPTQ: 2, 3, 4 or 8-bit weights in groups along each row, rounded so that the layer's output on calibration texts changes least.
//
// Resident tensors of a weight [out, in], with `in` rounded up to whole 32 columns:
//   codes   int32 [out, in * bits / 32]   a stream of codes along each row, lowest bits first: the file's qweight, turned over
//   scales  float16 [out, groups]
//   zeros   uint8 [out, groups]           the code that stands for 0
//   order   int32 [in]                    with desc_act alone: the weight's column at each place of a row, groups together
// Experts have a dimension in front; their order is [count, modules_per_expert, in].
#include "kernels.h"
#include "settings.h"
#include "tenon/quantizer.h"

namespace tenon::gptq {

class Gptq final : public Quantizer {
 public:
  explicit Gptq(const Options& options);

  std::string format() const override { return "gptq/1"; }
  QuantizerFacts facts() const override;
  Support supports(const SlotSpec& slot) const override;
  std::vector<TensorSpec> resident(const SlotSpec& slot) const override;

  Tensors quantize(const SlotSpec& slot, const at::Tensor& weight, const Observer* calibration) const override;
  std::unique_ptr<Observer> make_observer(const SlotSpec& slot) const override;
  int64_t calibration_bytes(const SlotSpec& slot) const override;

  using Quantizer::dequantize;
  at::Tensor dequantize(const SlotSpec& slot, const Tensors& tensors, at::ScalarType dtype, int64_t first_row,
                        int64_t last_row) const override;
  at::Tensor linear(const SlotSpec& slot, const at::Tensor& x, const Tensors& tensors) const override;
  std::vector<at::Tensor> linear_many(std::span<const Operand> weights, const at::Tensor& x) const override;
  at::Tensor grouped(const SlotSpec& slot, const at::Tensor& x, const at::Tensor& offsets, const Tensors& tensors) const override;

  std::optional<Value> recognise(const Value& quantization_config, const TensorSource& file) const override;
  std::vector<std::string> locate(const SlotSpec& slot, const TensorSource& file) const override;
  Tensors unpack(const SlotSpec& slot, const TensorSource& file) const override;
  std::vector<NamedTensor> pack(const SlotSpec& slot, const Tensors& tensors) const override;
  Value quantization_config(const std::vector<std::string>& skipped_modules, at::ScalarType model_dtype) const override;

 private:
  // How a slot lies in memory: its rows end with columns that the weight does not have, of codes and scales 0.
  struct Layout {
    Settings settings;
    int64_t columns, words;         // of a row
    int64_t group, groups;          // of `columns`
    int64_t parts_each, part_rows;  // parts that have an order of their own, of the weight or of each expert
  };
  // Rows of a slot as kernels see them.
  struct Part {
    Weight weight;
    at::Tensor order;  // undefined: as the columns come
  };
  Layout layout_of(const SlotSpec& slot) const;
  Part part_of(const Layout& layout, const Tensors& tensors, int64_t part) const;
  Tensors read_module(const SlotSpec& slot, const Layout& layout, const std::string& name, const TensorSource& file) const;
  // x: [m, in] -> [m, rows] of each part. On the CPU for at most kFusedRows.
  std::vector<at::Tensor> multiply(std::span<const Part> parts, const at::Tensor& x) const;
  at::Tensor multiply_on_device(const Part& part, const at::Tensor& x) const;
  static void dequantize_on_device(const Weight& weight, int64_t first_row, int64_t last_row, at::Tensor out);
  Options options_;
  Overrides overrides_;
};

enum { kCodes, kScales, kZeros, kOrder };  // of the resident tensors
Dtype kernel_dtype(at::ScalarType dtype);

}  // namespace tenon::gptq
