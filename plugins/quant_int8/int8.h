#pragma once
// LLM.int8() (arXiv:2208.07339) in bitsandbytes' row-wise layout: a weight as int8 with one scale a row, activations quantized row by row as they
// come, columns that hold an outlier multiplied apart. Two departures, both on purpose: activations keep their dtype (bitsandbytes casts them to
// float16 first; on values exact in float16 codes and sums are the same), and 1/127^2 is not rounded to seven digits.
//
// Resident tensors of a weight [out, in]:
//   codes   int8 [out, in]     round(w * (127 / scale)), w rounded to float16 first
//   scales  float32 [out]      the row's largest magnitude; "SCB" in files
#include <optional>
#include <string>
#include <vector>

#include "kernels.h"
#include "tenon/stable/plugin.h"

namespace tenon::int8 {

struct Options {
  double threshold = 6.0;
};
OptionTable option_table();

class Int8 final : public stable::Quantizer {
 public:
  using SlotSpec = stable::SlotSpec;
  using Tensor = stable::Tensor;
  using Tensors = stable::Tensors;

  explicit Int8(const Options& options) : options_(options) {}

  std::string format() const override { return "int8/1"; }
  stable::QuantizerFacts facts() const override;
  stable::Support supports(const SlotSpec&) const override { return {}; }
  std::vector<stable::TensorSpec> resident(const SlotSpec& slot) const override;

  Tensors quantize(const SlotSpec& slot, const Tensor& weight, const stable::Observer*) const override;
  int64_t row_granule(const SlotSpec&) const override { return 1; }
  Tensors begin(const SlotSpec& slot, stable::Device device) const override;
  void quantize_rows(const SlotSpec& slot, const Tensor& rows, int64_t first_row, Tensors& work) const override;
  Tensors finish(const SlotSpec&, Tensors work) const override { return work; }

  Tensor dequantize(const SlotSpec& slot, const Tensors& tensors, stable::ScalarType dtype, int64_t first_row,
                    int64_t last_row) const override;
  Tensor linear(const SlotSpec& slot, const Tensor& x, const Tensors& tensors) const override;
  Tensor grouped(const SlotSpec& slot, const Tensor& x, const Tensor& offsets, const Tensors& tensors) const override;
  Tensors linear_many(const std::vector<Operand>& weights, const Tensor& x) const override;
  Tensor grad_input(const SlotSpec& slot, const Tensor& dy, const Tensors& tensors) const override;
  Tensor rows(const SlotSpec& slot, const Tensor& ids, const Tensors& tensors, stable::ScalarType dtype) const override;

  std::optional<Value> recognise(const Value& quantization_config, const stable::TensorSource& file) const override;
  std::vector<std::string> locate(const SlotSpec& slot, const stable::TensorSource& file) const override;
  Tensors unpack(const SlotSpec& slot, const stable::TensorSource& file) const override;
  std::vector<stable::NamedTensor> pack(const SlotSpec& slot, const Tensors& tensors) const override;
  Value quantization_config(const std::vector<std::string>& skipped_modules, stable::ScalarType model_dtype) const override;

 private:
  Options options_;
};

}  // namespace tenon::int8
