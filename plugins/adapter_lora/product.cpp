#include "product.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_unsafe_view.h>
#include <ATen/ops/mul.h>
#include <torch/csrc/autograd/custom_function.h>

#include "tenon/nn/dropout.h"
#include "tenon/nn/linear.h"

namespace tenon::lora {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// A mask among what a node keeps.
void keep(AutogradContext* ctx, const nn::DropoutMask& mask) {
  ctx->saved_data["share"] = mask.share;
  ctx->saved_data["seed"] = mask.seed;
  ctx->saved_data["kept"] = mask.kept;
}
nn::DropoutMask kept(AutogradContext* ctx) {
  return {ctx->saved_data["share"].toDouble(), ctx->saved_data["seed"].toInt(), ctx->saved_data["kept"].toTensor()};
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
    const nn::DropoutMask mask = nn::draw_dropout(x, dropout);
    const at::Tensor narrow = nn::linear(as_rows(nn::apply_dropout(x, mask)), a_cast).mul_(scaling);
    ctx->save_for_backward({x, narrow, a_cast, b_cast});
    ctx->saved_data["scaling"] = scaling;
    keep(ctx, mask);
    // Not a view to autograd: the caller adds into it.
    return at::_unsafe_view(nn::linear(narrow, b_cast), with_last(x, b_cast.size(0)));
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &narrow = saved[1], &a = saved[2], &b = saved[3];
    const double scaling = ctx->saved_data["scaling"].toDouble();
    const nn::DropoutMask mask = kept(ctx);
    const at::Tensor dy = as_rows(grads[0]);
    at::Tensor dx, da, db;
    if (ctx->needs_input_grad(2)) db = nn::matmul(dy.t(), narrow).to(at::kFloat);
    if (ctx->needs_input_grad(0) || ctx->needs_input_grad(1)) {
      const at::Tensor dnarrow = nn::matmul(dy, b).mul_(scaling);
      if (ctx->needs_input_grad(1)) da = nn::matmul(dnarrow.t(), as_rows(nn::apply_dropout(x, mask))).to(at::kFloat);
      if (ctx->needs_input_grad(0)) dx = nn::apply_dropout(nn::matmul(dnarrow, a).view(x.sizes()), mask);
    }
    return {dx, da, db, {}, {}, {}, {}};
  }
};

struct Drop : torch::autograd::Function<Drop> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, double dropout) {
    const nn::DropoutMask mask = nn::draw_dropout(x, dropout);
    keep(ctx, mask);
    return nn::apply_dropout(x, mask);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) { return {nn::apply_dropout(grads[0], kept(ctx)), {}}; }
};

}  // namespace

at::Tensor low_rank_product(const at::Tensor& x, const at::Tensor& a, const at::Tensor& b, const at::Tensor& a_cast,
                            const at::Tensor& b_cast, double scaling, double dropout) {
  if (at::GradMode::is_enabled()) return LowRankProduct::apply(x, a, b, a_cast, b_cast, scaling, dropout);
  const nn::DropoutMask mask = nn::draw_dropout(x, dropout);
  return nn::linear(nn::linear(as_rows(nn::apply_dropout(x, mask)), a_cast).mul_(scaling), b_cast).view(with_last(x, b_cast.size(0)));
}

at::Tensor drop(const at::Tensor& x, double dropout) { return dropout > 0 ? Drop::apply(x, dropout) : x; }

}  // namespace tenon::lora
