#include "lora_filler.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "product.h"
#include "tenon/nn/linear.h"

namespace tenon::lora {

LoraLinear::LoraLinear(std::shared_ptr<Filler> base, LowRank update, std::shared_ptr<const Switches> switches)
    : base_(std::move(base)), update_(std::move(update)), switches_(std::move(switches)) {}

std::string LoraLinear::describe() const { return "lora(" + base_->describe() + ")"; }

at::Tensor LoraLinear::linear(const at::Tensor& x) {
  at::Tensor y = base_->linear(x);
  return switches_->enabled ? add_update(x, std::move(y)) : y;
}

std::vector<at::Tensor> LoraLinear::linear_many(std::span<Filler* const> group, const at::Tensor& x) {
  std::vector<Filler*> bases;
  std::vector<LoraLinear*> wrapped;
  for (Filler* filler : group) {
    auto* own = dynamic_cast<LoraLinear*>(filler);
    bases.push_back(own ? own->base_.get() : filler);
    wrapped.push_back(own && own->switches_->enabled ? own : nullptr);
  }
  std::vector<at::Tensor> outputs = bases.front()->linear_many(bases, x);
  for (size_t i = 0; i < outputs.size(); ++i)
    if (wrapped[i]) outputs[i] = wrapped[i]->add_update(x, std::move(outputs[i]));
  return outputs;
}

const at::Tensor& CastCache::get(const at::Tensor& leaf, at::ScalarType dtype) {
  if (leaf.scalar_type() == dtype) return leaf;
  const auto version = static_cast<uint32_t>(leaf._version());
  if (!tensor_.defined() || leaf.requires_grad() || version_ != version || tensor_.scalar_type() != dtype) {
    tensor_ = leaf.detach().to(dtype);
    version_ = version;
  }
  return tensor_;
}

at::Tensor LoraLinear::add_update(const at::Tensor& x, at::Tensor y) {
  if (update_.magnitude.defined()) return add_direction(x, y);
  const at::Tensor &a = cast_a_.get(update_.a, x.scalar_type()), &b = cast_b_.get(update_.b, x.scalar_type());
  const double dropout = switches_->training ? update_.dropout : 0;
  if (!at::GradMode::is_enabled() && dropout == 0 && y.is_contiguous()) {
    const at::Tensor narrow = nn::linear(x.reshape({-1, x.size(-1)}), a);
    y.view({-1, y.size(-1)}).addmm_(narrow, b.t(), 1, update_.scaling);
    return y;
  }
  // The sum goes into the product's own memory, which nothing else holds.
  return low_rank_product(x, update_.a, update_.b, a.detach(), b.detach(), update_.scaling, dropout).add_(y);
}

at::Tensor LoraLinear::add_direction(const at::Tensor& x, const at::Tensor& y) {
  const at::Tensor &a = cast_a_.get(update_.a, x.scalar_type()), &b = cast_b_.get(update_.b, x.scalar_type());
  const double dropout = switches_->training ? update_.dropout : 0;
  const at::Tensor seen = drop(x, dropout);
  at::Tensor direction = dropout > 0 ? base_->linear(seen) : y;
  if (const at::Tensor bias = base_->bias(); bias.defined()) direction = direction - bias.to(direction.scalar_type());
  const at::Tensor change = low_rank_product(seen, update_.a, update_.b, a.detach(), b.detach(), update_.scaling, 0);
  const at::Tensor gain = update_.magnitude / row_norms();
  return y + (gain - 1).to(y.scalar_type()) * direction + gain.to(y.scalar_type()) * change;
}

at::Tensor LoraLinear::row_norms() const {
  at::NoGradGuard no_grad;
  const at::Tensor a = update_.a.detach(), b = update_.b.detach();
  at::Tensor along = base_->linear(a);  // [r, out]: W a^T, turned
  if (const at::Tensor bias = base_->bias(); bias.defined()) along = along - bias.to(along.scalar_type());
  const at::Tensor cross = at::sum(b * along.t(), {1});
  const at::Tensor own = at::sum(at::matmul(b, at::matmul(a, a.t())) * b, {1});
  const double s = update_.scaling;
  return at::sqrt((square_norms_ + 2 * s * cross + s * s * own).clamp_min_(0));
}

void LoraLinear::start_magnitude() {
  at::NoGradGuard no_grad;
  const int64_t out = update_.b.size(0), in = update_.a.size(1);
  const int64_t panel = std::max<int64_t>(1, (int64_t{16} << 20) / std::max<int64_t>(1, in * 4));
  square_norms_ = at::zeros({out}, update_.b.options().requires_grad(false));
  for (int64_t first = 0; first < out; first += panel) {
    const int64_t last = std::min(out, first + panel);
    const at::Tensor rows = base_->dense_rows(at::kFloat, first, last);
    square_norms_.narrow(0, first, last - first).copy_(at::sum(rows * rows, {1}));
  }
  update_.magnitude.copy_(row_norms());
}

at::Tensor LoraLinear::dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const {
  if (!switches_->enabled) return base_->dense_rows(dtype, first, last);
  at::NoGradGuard no_grad;
  LowRank part = update_;
  part.b = update_.b.narrow(0, first, last - first);
  if (update_.magnitude.defined()) part.magnitude = update_.magnitude.narrow(0, first, last - first);
  return merged(part, false, base_->dense_rows(at::kFloat, first, last)).to(dtype);
}

LoraEmbedding::LoraEmbedding(std::shared_ptr<Filler> base, LowRank update, std::shared_ptr<const Switches> switches)
    : base_(std::move(base)), update_(std::move(update)), switches_(std::move(switches)) {}

std::string LoraEmbedding::describe() const { return "lora(" + base_->describe() + ")"; }

at::Tensor LoraEmbedding::rows(const at::Tensor& ids, at::ScalarType dtype) {
  const at::Tensor base = base_->rows(ids, dtype);
  if (!switches_->enabled) return base;
  const at::Tensor change = nn::linear(at::embedding(update_.a.t(), ids), update_.b) * update_.scaling;
  return (base + change).to(dtype);
}

at::Tensor LoraEmbedding::dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const {
  if (!switches_->enabled) return base_->dense_rows(dtype, first, last);
  at::NoGradGuard no_grad;
  LowRank part = update_;
  part.a = update_.a.narrow(1, first, last - first);
  return merged(part, true, base_->dense_rows(at::kFloat, first, last)).to(dtype);
}

at::Tensor merged(const LowRank& update, bool is_embedding, const at::Tensor& weight) {
  at::NoGradGuard no_grad;
  const at::Tensor a = update.a.to(weight.device()), b = update.b.to(weight.device());
  const at::Tensor change = is_embedding ? at::matmul(b, a).t() : at::matmul(b, a);
  at::Tensor sum = weight + change * update.scaling;
  if (!update.magnitude.defined()) return sum;
  const at::Tensor gain = update.magnitude.to(weight.device()) / at::sqrt(at::sum(sum * sum, {1}));
  return sum * gain.unsqueeze(1);
}

}  // namespace tenon::lora
