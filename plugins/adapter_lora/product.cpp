#include "product.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_unsafe_view.h>
#include <ATen/ops/bernoulli.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mul.h>
#include <torch/csrc/autograd/custom_function.h>

namespace tenon::lora {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor draw_mask(const at::Tensor& x, double dropout) {
  return at::empty_like(x, x.options().dtype(at::kBool)).bernoulli_(1 - dropout);
}

at::Tensor apply_mask(const at::Tensor& x, const at::Tensor& mask, double dropout) {
  return mask.defined() ? (x * mask).mul_(1 / (1 - dropout)) : x;
}

at::Tensor as_rows(const at::Tensor& t) { return t.reshape({-1, t.size(-1)}); }

std::vector<int64_t> with_last(const at::Tensor& t, int64_t last) {
  std::vector<int64_t> shape = t.sizes().vec();
  shape.back() = last;
  return shape;
}

struct LowRankProduct : torch::autograd::Function<LowRankProduct> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& /*a*/, const at::Tensor& /*b*/,
                            const at::Tensor& a_cast, const at::Tensor& b_cast, double scaling, double dropout) {
    const at::Tensor mask = dropout > 0 ? draw_mask(x, dropout) : at::Tensor();
    const at::Tensor narrow = at::linear(as_rows(apply_mask(x, mask, dropout)), a_cast).mul_(scaling);
    ctx->save_for_backward({x, mask, narrow, a_cast, b_cast});
    ctx->saved_data["scaling"] = scaling;
    ctx->saved_data["dropout"] = dropout;
    // Not a view to autograd: the caller adds into it.
    return at::_unsafe_view(at::linear(narrow, b_cast), with_last(x, b_cast.size(0)));
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &mask = saved[1], &narrow = saved[2], &a = saved[3], &b = saved[4];
    const double scaling = ctx->saved_data["scaling"].toDouble(), dropout = ctx->saved_data["dropout"].toDouble();
    const at::Tensor dy = as_rows(grads[0]);
    at::Tensor dx, da, db;
    if (ctx->needs_input_grad(2)) db = at::matmul(dy.t(), narrow).to(at::kFloat);
    if (ctx->needs_input_grad(0) || ctx->needs_input_grad(1)) {
      const at::Tensor dnarrow = at::matmul(dy, b).mul_(scaling);
      if (ctx->needs_input_grad(1)) da = at::matmul(dnarrow.t(), as_rows(apply_mask(x, mask, dropout))).to(at::kFloat);
      if (ctx->needs_input_grad(0)) dx = apply_mask(at::matmul(dnarrow, a).view(x.sizes()), mask, dropout);
    }
    return {dx, da, db, {}, {}, {}, {}};
  }
};

struct Drop : torch::autograd::Function<Drop> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, double dropout) {
    const at::Tensor mask = draw_mask(x, dropout);
    ctx->save_for_backward({mask});
    ctx->saved_data["dropout"] = dropout;
    return apply_mask(x, mask, dropout);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {apply_mask(grads[0], ctx->get_saved_variables()[0], ctx->saved_data["dropout"].toDouble()), {}};
  }
};

}  // namespace

at::Tensor low_rank_product(const at::Tensor& x, const at::Tensor& a, const at::Tensor& b, const at::Tensor& a_cast,
                            const at::Tensor& b_cast, double scaling, double dropout) {
  if (at::GradMode::is_enabled()) return LowRankProduct::apply(x, a, b, a_cast, b_cast, scaling, dropout);
  const at::Tensor mask = dropout > 0 ? draw_mask(x, dropout) : at::Tensor();
  return at::linear(at::linear(as_rows(apply_mask(x, mask, dropout)), a_cast).mul_(scaling), b_cast).view(with_last(x, b_cast.size(0)));
}

at::Tensor drop(const at::Tensor& x, double dropout) { return dropout > 0 ? Drop::apply(x, dropout) : x; }

}  // namespace tenon::lora
