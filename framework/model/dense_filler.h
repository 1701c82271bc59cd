#pragma once
// A slot filled with a dense weight.
#include "tenon/filler.h"

namespace tenon::host {

class DenseFiller final : public Filler {
 public:
  // weight: [out, in]; bias: [out] or undefined. Either may be a trainable leaf, possibly kept in float32 while x is narrower.
  DenseFiller(at::Tensor weight, at::Tensor bias) : weight_(std::move(weight)), bias_(std::move(bias)) {}

  std::string describe() const override;
  at::Tensor linear(const at::Tensor& x) override;
  at::Tensor grouped(const at::Tensor& x, const at::Tensor& offsets) override;
  at::Tensor rows(const at::Tensor& ids, at::ScalarType dtype) override;
  at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const override;
  at::Tensor bias() const override { return bias_; }
  const at::Tensor& weight() const { return weight_; }

 private:
  at::Tensor weight_, bias_;
};

}  // namespace tenon::host
