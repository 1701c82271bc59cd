#include "whole.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/embedding.h>

#include "tenon/nn/linear.h"

namespace tenon::lora {

BiasFiller::BiasFiller(std::shared_ptr<Filler> base, at::Tensor bias, std::shared_ptr<const Switches> switches)
    : base_(std::move(base)), bias_(std::move(bias)), switches_(std::move(switches)) {}

at::Tensor BiasFiller::exchange_bias(at::Tensor y) const { return y + (bias_ - base_->bias().to(bias_.scalar_type())).to(y.scalar_type()); }

at::Tensor BiasFiller::linear(const at::Tensor& x) {
  at::Tensor y = base_->linear(x);
  return switches_->enabled ? exchange_bias(std::move(y)) : y;
}

std::vector<at::Tensor> BiasFiller::linear_many(std::span<Filler* const> group, const at::Tensor& x) {
  std::vector<Filler*> bases;
  std::vector<const BiasFiller*> own;
  for (Filler* filler : group) {
    auto* biased = dynamic_cast<BiasFiller*>(filler);
    bases.push_back(biased ? biased->base_.get() : filler);
    own.push_back(biased && biased->switches_->enabled ? biased : nullptr);
  }
  std::vector<at::Tensor> outputs = bases.front()->linear_many(bases, x);
  for (size_t i = 0; i < outputs.size(); ++i)
    if (own[i]) outputs[i] = own[i]->exchange_bias(std::move(outputs[i]));
  return outputs;
}

at::Tensor BiasFiller::dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const { return base_->dense_rows(dtype, first, last); }

WholeFiller::WholeFiller(std::shared_ptr<Filler> base, at::Tensor weight, at::Tensor bias, std::shared_ptr<const Switches> switches)
    : base_(std::move(base)), weight_(std::move(weight)), bias_(std::move(bias)), switches_(std::move(switches)) {}

at::Tensor WholeFiller::linear(const at::Tensor& x) {
  if (!switches_->enabled) return base_->linear(x);
  // While it is trained the cast is part of the graph; afterwards the copy in x's dtype is kept.
  const at::Tensor weight = weight_.requires_grad() ? weight_.to(x.scalar_type()) : cast_.get(weight_, x.scalar_type());
  return bias_.defined() ? nn::linear(x, weight, bias_.to(x.scalar_type())) : nn::linear(x, weight);
}

at::Tensor WholeFiller::rows(const at::Tensor& ids, at::ScalarType dtype) {
  return switches_->enabled ? at::embedding(weight_, ids).to(dtype) : base_->rows(ids, dtype);
}

at::Tensor WholeFiller::dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const {
  if (!switches_->enabled) return base_->dense_rows(dtype, first, last);
  at::NoGradGuard no_grad;
  return weight_.detach().narrow(0, first, last - first).to(dtype);
}

}  // namespace tenon::lora
