#pragma once
// GPTQ: 2, 3, 4 or 8-bit weights in groups along each row, rounded so that the layer's output on calibration texts changes least.
//
// Resident tensors of a weight [out, in]:
//   codes   int32 [out, in * bits / 32]   a stream of codes along each row, lowest bits first: the file's qweight, turned over
//   scales  float16 [out, groups]
//   zeros   uint8 [out, groups]           the code that stands for 0
//   order   int32 [in]                    with desc_act alone: the weight's column at each place of a row, groups together
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

  std::optional<Value> recognise(const Value& quantization_config, const TensorSource& file) const override;
  std::vector<std::string> locate(const SlotSpec& slot, const TensorSource& file) const override;
  Tensors unpack(const SlotSpec& slot, const TensorSource& file) const override;
  std::vector<NamedTensor> pack(const SlotSpec& slot, const Tensors& tensors) const override;
  Value quantization_config(const std::vector<std::string>& skipped_modules, at::ScalarType model_dtype) const override;

 private:
  Weight view(const SlotSpec& slot, const Tensors& tensors) const;
  at::Tensor dequantize_on_device(const Weight& weight, const at::Tensor& codes, at::ScalarType dtype, int64_t first_row,
                                  int64_t last_row) const;
  std::vector<at::Tensor> linear_on_device(std::span<const Operand> weights, const at::Tensor& x) const;
  Options options_;
  Overrides overrides_;
};

enum { kCodes, kScales, kZeros, kOrder };  // of the resident tensors
Dtype kernel_dtype(at::ScalarType dtype);

}  // namespace tenon::gptq
