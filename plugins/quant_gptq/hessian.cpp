#include "hessian.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cholesky_inverse.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "moments.h"

namespace tenon::gptq {

namespace {

constexpr int kFloorAttempts = 6;

at::Tensor descending(const at::Tensor& values) { return at::argsort(values, /*stable=*/true, /*dim=*/0, /*descending=*/true); }

// Groups by their largest diagonal element, columns of a group by theirs; what is left behind whole groups keeps its place.
at::Tensor order_within_groups(const at::Tensor& diagonal, int64_t group) {
  const int64_t groups = diagonal.size(0) / group, covered = groups * group;
  const auto [values, local] =
      at::sort(diagonal.narrow(0, 0, covered).view({groups, group}), /*stable=*/true, /*dim=*/1, /*descending=*/true);
  const at::Tensor base = at::arange(groups, local.options()).mul(group).unsqueeze(1);
  const at::Tensor order = (local + base).index_select(0, descending(values.select(1, 0))).reshape({-1});
  return at::cat({order, at::arange(covered, diagonal.size(0), local.options())});
}

// Undefined when `h` is not positive definite in float32.
at::Tensor inverse_factor(const at::Tensor& h) {
  auto [lower, info] = at::linalg_cholesky_ex(h);
  if (info.item<int>() != 0) return {};
  const at::Tensor inverse = at::cholesky_inverse(lower);
  auto [upper, info2] = at::linalg_cholesky_ex(inverse, /*upper=*/true);
  if (info2.item<int>() != 0) return {};
  return upper.contiguous();
}

}  // namespace

Hessian::Hessian(std::string path, int64_t columns) : path_(std::move(path)), columns_(columns) {}

void Hessian::observe(const at::Tensor& x) {
  at::NoGradGuard no_grad;
  if (!x.is_cpu()) return observe_on_device(x);
  if (!sum_.defined()) sum_ = at::zeros({columns_, columns_}, at::kFloat);
  const int64_t count = x.size(0);
  add_moments(x, sum_);
  tokens_ += count;
}

at::Tensor Hessian::matrix() const {
  at::Tensor h = sum_.triu();
  h += h.triu(1).t();
  h *= 2.0f / static_cast<float>(std::max<int64_t>(tokens_, 1));
  if (!at::isfinite(h).all().item<bool>())
    fail(ErrorCode::Data, "the inputs of ", path_, " are not finite on the calibration texts: use dtype = \"float32\", or other texts");
  return h;
}

std::shared_ptr<const Factor> Hessian::factor(const Settings& s) const {
  const bool by_group = s.act_group_aware;
  const std::string key = concat(s.desc_act ? "columns" : by_group ? "groups" : "plain", " ", by_group ? s.group : 0, " ", s.damp_percent);
  std::lock_guard lock(mutex_);
  auto& cached = factors_[key];
  if (cached) return cached;

  at::NoGradGuard no_grad;
  auto result = std::make_shared<Factor>();
  at::Tensor h = matrix();
  result->dead = h.diagonal() == 0;
  h.diagonal().masked_fill_(result->dead, 1.0);
  if (s.desc_act)
    result->order = descending(h.diagonal());
  else if (by_group)
    result->order = order_within_groups(h.diagonal(), s.group);
  if (result->order.defined()) h = h.index_select(0, result->order).index_select(1, result->order);

  // The damping asked for, then more; then a floor under the diagonal as well, ten times higher each round: GPTQModel's ladder.
  at::Tensor diagonal = h.diagonal();
  const at::Tensor original = diagonal.clone();
  const double largest = original.abs().max().item<double>(), floor = (largest > 0 ? largest : 1.0) * 1e-6;
  for (int attempt = 0; attempt <= kFloorAttempts && !result->upper.defined(); ++attempt) {
    const double raised = attempt == 0 ? 0 : floor * std::pow(10.0, attempt - 1);
    const at::Tensor base = attempt == 0 ? original : (original + raised).clamp_min(raised);
    const double mean = base.mean().item<double>();
    for (double damp = s.damp_percent; damp < 1.0; damp += s.damp_auto_increment) {
      diagonal.copy_(base + damp * mean);
      result->upper = inverse_factor(h);
      result->damp = damp;
      if (result->upper.defined() || s.damp_auto_increment == 0) break;
    }
  }
  for (at::Tensor* made : {&result->order, &result->upper, &result->dead})
    if (made->defined()) *made = made->cpu();
  return cached = result;
}

}  // namespace tenon::gptq
