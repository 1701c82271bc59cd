#pragma once
// A slot filled with packed tensors of a quantizer. The one place where any quantizer becomes differentiable: the quantizer multiplies, this
// file records the product for autograd with the packed tensors alone, so the dense weight exists only while a product runs.
#include <memory>

#include "tenon/filler.h"
#include "tenon/quantizer.h"

namespace tenon::host {

class QuantizedFiller final : public Filler {
 public:
  QuantizedFiller(SlotSpec spec, std::string name, std::shared_ptr<const Quantizer> quantizer, Tensors tensors, at::Tensor bias);

  std::string describe() const override { return name_; }
  at::Tensor linear(const at::Tensor& x) override;
  std::vector<at::Tensor> linear_many(std::span<Filler* const> group, const at::Tensor& x) override;
  at::Tensor grouped(const at::Tensor& x, const at::Tensor& offsets) override;
  at::Tensor rows(const at::Tensor& ids, at::ScalarType dtype) override;
  at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const override;
  at::Tensor bias() const override { return bias_; }

  const Tensors& tensors() const { return tensors_; }
  const SlotSpec& spec() const { return spec_; }
  const Quantizer& quantizer() const { return *quantizer_; }
  const std::string& quantizer_name() const { return name_; }

 private:
  SlotSpec spec_;
  std::string name_;
  std::shared_ptr<const Quantizer> quantizer_;
  Tensors tensors_;
  at::Tensor bias_;
};

}  // namespace tenon::host
