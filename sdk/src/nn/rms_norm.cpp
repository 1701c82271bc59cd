// Root-mean-square norm: one pass over each row on the CPU, LibTorch operations elsewhere.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/rsqrt.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <vector>

#include "cpu_rows.h"
#include "tenon/device.h"
#include "tenon/error.h"
#include "tenon/nn/norm.h"

namespace tenon::nn {

namespace {
using at::BFloat16;
using at::Half;

// x and y: rows of `width`; weight: float32; scales: one 1 / rms for each row, or null.
struct Forward {
  const void* x;
  const float* weight;
  void* y;
  float* scales;
  int64_t width;
  float eps;
};
// x, dy, dx: rows; dx may lie over dy when their types are equal.
struct Backward {
  const void* x;
  const float* weight;
  const float* scales;
  const void* dy;
  void* dx;
  int64_t width;
};

template <class X, class Y>
TENON_INLINE void forward_rows(const Forward& job, int64_t begin, int64_t end) {
  using namespace rows;
  const int64_t width = job.width;
  const float* weight = job.weight;
  for (int64_t r = begin; r < end; ++r) {
    const X* x = static_cast<const X*>(job.x) + r * width;
    Y* y = static_cast<Y*>(job.y) + r * width;
    F16 v, w, squares = {};
    for (int64_t i = 0; i < width; i += kLanes) {
      load(x + i, width - i, v);
      squares += v * v;
    }
    const float scale = 1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + job.eps);
    if (job.scales) job.scales[r] = scale;
    for (int64_t i = 0; i < width; i += kLanes) {
      load(x + i, width - i, v);
      load(weight + i, width - i, w);
      v *= scale;
      round_to<X>(v);
      v *= w;
      store(y + i, width - i, v);
    }
  }
}

// With n = x * scale and g = dy * weight: dx = scale * (g - n * mean(g * n)).
template <class X, class Y>
TENON_INLINE void backward_rows(const Backward& job, int64_t begin, int64_t end) {
  using namespace rows;
  const int64_t width = job.width;
  const float* weight = job.weight;
  for (int64_t r = begin; r < end; ++r) {
    const X* x = static_cast<const X*>(job.x) + r * width;
    const Y* dy = static_cast<const Y*>(job.dy) + r * width;
    X* dx = static_cast<X*>(job.dx) + r * width;
    const float scale = job.scales[r];
    F16 v, g, w, dots = {};
    for (int64_t i = 0; i < width; i += kLanes) {
      load(x + i, width - i, v);
      load(dy + i, width - i, g);
      load(weight + i, width - i, w);
      dots += g * w * v;
    }
    const float shrink = sum(dots) * scale * scale / static_cast<float>(width);
    for (int64_t i = 0; i < width; i += kLanes) {
      load(x + i, width - i, v);
      load(dy + i, width - i, g);
      load(weight + i, width - i, w);
      v = scale * (g * w - v * shrink);
      store(dx + i, width - i, v);
    }
  }
}

#define TENON_NORM_KERNELS(name, X, Y)                                                                                          \
  TENON_CPU_CLONES void forward_##name(const Forward& job, int64_t begin, int64_t end) { forward_rows<X, Y>(job, begin, end); } \
  TENON_CPU_CLONES void backward_##name(const Backward& job, int64_t begin, int64_t end) { backward_rows<X, Y>(job, begin, end); }
TENON_NORM_KERNELS(float_float, float, float)
TENON_NORM_KERNELS(float_bfloat16, float, BFloat16)
TENON_NORM_KERNELS(float_half, float, Half)
TENON_NORM_KERNELS(bfloat16_bfloat16, BFloat16, BFloat16)
TENON_NORM_KERNELS(half_half, Half, Half)
#undef TENON_NORM_KERNELS

struct Kernels {
  at::ScalarType x, y;
  void (*forward)(const Forward&, int64_t, int64_t);
  void (*backward)(const Backward&, int64_t, int64_t);
};
constexpr Kernels kKernels[] = {
    {at::kFloat, at::kFloat, forward_float_float, backward_float_float},
    {at::kFloat, at::kBFloat16, forward_float_bfloat16, backward_float_bfloat16},
    {at::kFloat, at::kHalf, forward_float_half, backward_float_half},
    {at::kBFloat16, at::kBFloat16, forward_bfloat16_bfloat16, backward_bfloat16_bfloat16},
    {at::kHalf, at::kHalf, forward_half_half, backward_half_half},
};

const Kernels* find_kernels(const at::Tensor& x, at::ScalarType y) {
  if (!x.is_cpu() || x.numel() == 0) return nullptr;
  for (const Kernels& k : kKernels)
    if (k.x == x.scalar_type() && k.y == y) return &k;
  return nullptr;
}

template <class Job>
void over_rows(void (*kernel)(const Job&, int64_t, int64_t), const Job& job, int64_t rows) {
  if (rows * job.width <= rows::kSerialElements) return kernel(job, 0, rows);
  parallel_for(rows, (rows::kSerialElements + job.width - 1) / job.width, [&](int64_t begin, int64_t end) { kernel(job, begin, end); });
}

// Contiguous and float32, without a copy where it already is.
at::Tensor plain_weight(const at::Tensor& weight) { return weight.to(at::kFloat).contiguous(); }

// -> y and, if `want_scales`, 1 / rms as [rows].
std::pair<at::Tensor, at::Tensor> forward(const at::Tensor& x_in, const at::Tensor& weight, double eps, at::ScalarType out,
                                          bool want_scales) {
  const int64_t width = weight.numel();
  if (const Kernels* kernels = find_kernels(x_in, out)) {
    const at::Tensor x = x_in.contiguous();
    const at::Tensor w = plain_weight(weight);
    at::Tensor y = at::empty(x.sizes(), x.options().dtype(out));
    const int64_t rows = x.numel() / width;
    at::Tensor scales = want_scales ? at::empty({rows}, x.options().dtype(at::kFloat)) : at::Tensor();
    over_rows(kernels->forward,
              Forward{x.const_data_ptr(), w.const_data_ptr<float>(), y.mutable_data_ptr(),
                      want_scales ? scales.mutable_data_ptr<float>() : nullptr, width, static_cast<float>(eps)},
              rows);
    return {std::move(y), std::move(scales)};
  }
  const at::Tensor wide = x_in.to(at::kFloat);
  const at::Tensor scales = at::rsqrt(at::mean(wide * wide, {-1}, true) + eps);
  at::Tensor y = ((wide * scales).to(x_in.scalar_type()).to(at::kFloat) * weight).to(out);
  return {std::move(y), want_scales ? scales.reshape({-1}) : at::Tensor()};
}

at::Tensor backward_x(const at::Tensor& x_in, const at::Tensor& weight, const at::Tensor& scales, const at::Tensor& dy_in) {
  const int64_t width = weight.numel();
  if (const Kernels* kernels = find_kernels(x_in, dy_in.scalar_type())) {
    const at::Tensor x = x_in.contiguous(), dy = dy_in.contiguous(), w = plain_weight(weight);
    at::Tensor dx = at::empty_like(x);
    over_rows(kernels->backward,
              Backward{x.const_data_ptr(), w.const_data_ptr<float>(), scales.const_data_ptr<float>(), dy.const_data_ptr(),
                       dx.mutable_data_ptr(), width},
              x.numel() / width);
    return dx;
  }
  const at::Tensor scale = scales.view({-1, 1});
  const at::Tensor normal = x_in.reshape({-1, width}).to(at::kFloat) * scale;
  const at::Tensor g = dy_in.reshape({-1, width}).to(at::kFloat) * weight;
  return (scale * (g - normal * at::mean(g * normal, {-1}, true))).to(x_in.scalar_type()).view(x_in.sizes());
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, double eps,
                            at::ScalarType out) {
    auto [y, scales] = nn::forward(x, weight, eps, out, true);
    context->save_for_backward({x, weight, scales});
    return y;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &scales = saved[2], &dy = grads[0];
    at::Tensor dx, dw;
    if (context->needs_input_grad(0)) dx = backward_x(x, weight, scales, dy);
    if (context->needs_input_grad(1)) {
      const int64_t width = weight.numel();
      const at::Tensor normal = (x.reshape({-1, width}).to(at::kFloat) * scales.view({-1, 1})).to(x.scalar_type());
      dw = (dy.reshape({-1, width}).to(at::kFloat) * normal).sum(0).to(weight.scalar_type()).view(weight.sizes());
    }
    return {dx, dw, at::Tensor(), at::Tensor()};
  }
};
}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::ScalarType out) {
  if (x.dim() == 0 || x.size(-1) != weight.numel())
    fail(ErrorCode::Internal, "a norm of width ", weight.numel(), " met a tensor whose last dimension is ", x.dim() ? x.size(-1) : 0);
  if (at::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad())) return RmsNorm::apply(x, weight, eps, out);
  return forward(x, weight, eps, out, false).first;
}

}  // namespace tenon::nn
