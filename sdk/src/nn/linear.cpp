#include "tenon/nn/linear.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_unsafe_view.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "cpu_rows.h"
#include "float_product.h"
#include "tenon/device.h"

namespace tenon::nn {

namespace {
using rows::F16;
using rows::kLanes;
using rows::U16;

constexpr int64_t kPair = 2 * kLanes;           // elements taken together
constexpr int64_t kMaxRows = 16;                // beyond, a blocked product is faster
constexpr int64_t kOutputs = 4;                 // rows of the weight that share a load of x
constexpr int64_t kSerialElements = 1 << 16;    // less than this is done before another thread has woken
constexpr int64_t kPanelElements = 128 * 1024;  // of the weight: what stays in the second cache while several tiles of x pass over it

struct Job {
  const float* x;  // [rows, in]: of each 32 elements the even ones, then the odd ones
  const at::BFloat16 *weight, *bias;
  at::BFloat16* y;  // [rows, out]
  int64_t rows, in, out;
};

// Even and odd bfloat16 values are a shift or a mask away from float32.
TENON_INLINE void load_pair(const at::BFloat16* from, F16& even, F16& odd) {
  U16 both;
  std::memcpy(&both, from, sizeof both);
  even = (F16)(both << 16);
  odd = (F16)(both & 0xffff0000u);
}

template <int64_t M, int64_t N>
TENON_INLINE void tile(const Job& job, int64_t m, int64_t n) {
  F16 total[N][M], w_even[N], w_odd[N], x_even, x_odd;
  TENON_UNROLL
  for (int64_t j = 0; j < N; ++j) {
    TENON_UNROLL
    for (int64_t i = 0; i < M; ++i) total[j][i] = F16{};
  }
  const float* x = job.x + m * job.in;
  const at::BFloat16* weight = job.weight + n * job.in;
  for (int64_t k = 0; k < job.in; k += kPair) {
    TENON_UNROLL
    for (int64_t j = 0; j < N; ++j) load_pair(weight + j * job.in + k, w_even[j], w_odd[j]);
    TENON_UNROLL
    for (int64_t i = 0; i < M; ++i) {
      rows::load16(x + i * job.in + k, x_even);
      rows::load16(x + i * job.in + k + kLanes, x_odd);
      TENON_UNROLL
      for (int64_t j = 0; j < N; ++j) {
        total[j][i] += x_even * w_even[j];
        total[j][i] += x_odd * w_odd[j];
      }
    }
  }
  TENON_UNROLL
  for (int64_t j = 0; j < N; ++j) {
    TENON_UNROLL
    for (int64_t i = 0; i < M; ++i) {
      const float sum = rows::sum(total[j][i]) + (job.bias ? static_cast<float>(job.bias[n + j]) : 0.0f);
      job.y[(m + i) * job.out + n + j] = static_cast<at::BFloat16>(sum);
    }
  }
}

template <int64_t M>
TENON_INLINE void columns(const Job& job, int64_t m, int64_t begin, int64_t end) {
  int64_t n = begin;
  for (; n + kOutputs <= end; n += kOutputs) tile<M, kOutputs>(job, m, n);
  for (; n < end; ++n) tile<M, 1>(job, m, n);
}

TENON_CPU_CLONES void multiply(const Job& job, int64_t begin, int64_t end) {
  const int64_t panel = std::max(kOutputs, kPanelElements / job.in / kOutputs * kOutputs);
  for (int64_t n = begin; n < end; n += panel) {
    const int64_t stop = std::min(end, n + panel);
    int64_t m = 0;
    for (; m + 4 <= job.rows; m += 4) columns<4>(job, m, n, stop);
    switch (job.rows - m) {
      case 1: columns<1>(job, m, n, stop); break;
      case 2: columns<2>(job, m, n, stop); break;
      case 3: columns<3>(job, m, n, stop); break;
      default: break;
    }
  }
}

bool is_recorded(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return at::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad() || (bias.defined() && bias.requires_grad()));
}

bool is_ours(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const int64_t in = weight.size(1);
  if (!x.is_cpu() || !weight.is_cpu() || x.scalar_type() != at::kBFloat16 || weight.scalar_type() != at::kBFloat16 || in % kPair != 0 ||
      in == 0 || x.dim() < 1 || x.size(-1) != in || x.numel() == 0 || x.numel() > kMaxRows * in || !weight.is_contiguous())
    return false;
  if (bias.defined() && (bias.scalar_type() != at::kBFloat16 || !bias.is_contiguous())) return false;
  return !is_recorded(x, weight, bias);
}

at::Tensor as_rows(const at::Tensor& x) { return x.dim() == 2 ? x : x.reshape({-1, x.size(-1)}); }

at::Tensor shaped_as(const at::Tensor& x, const at::Tensor& y) {
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = y.size(1);
  return at::_unsafe_view(y, shape);  // no view to autograd: callers add into it
}

bool goes_through_float(const at::Tensor& x, const at::Tensor& weight) {
  return is_faster_in_float(x) && weight.is_cpu() && weight.scalar_type() == x.scalar_type() && x.dim() >= 1 && x.numel() > 0 &&
         weight.numel() > 0;
}

WeightRows rows_of(const at::Tensor& weight) {
  return [&weight](int64_t first, int64_t last) { return weight.narrow(0, first, last - first); };
}

struct FloatLinear : torch::autograd::Function<FloatLinear> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
    ctx->save_for_backward({x, weight});
    ctx->saved_data["has_bias"] = bias.has_value();
    return shaped_as(x, float_linear(as_rows(x), weight.size(0), rows_of(weight), bias.value_or(at::Tensor())));
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, torch::autograd::variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], dy = as_rows(grads[0]);
    at::Tensor dx, dweight, dbias;
    if (ctx->needs_input_grad(0)) dx = nn::matmul(dy, weight).view(x.sizes());
    if (ctx->needs_input_grad(1)) dweight = nn::matmul(dy.t(), as_rows(x));
    if (ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2)) dbias = dy.sum(0);
    return {dx, dweight, dbias};
  }
};

struct FloatMatmul : torch::autograd::Function<FloatMatmul> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& a, const at::Tensor& b) {
    ctx->save_for_backward({a, b});
    return float_matmul(a, b);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, torch::autograd::variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &a = saved[0], &b = saved[1];
    const bool one = b.dim() == 2;
    const at::Tensor dy = one ? as_rows(grads[0]) : grads[0], rows = one ? as_rows(a) : a;
    at::Tensor da, db;
    if (ctx->needs_input_grad(0)) da = nn::matmul(dy, b.transpose(-1, -2)).view(a.sizes());
    if (ctx->needs_input_grad(1)) db = nn::matmul(rows.transpose(-1, -2), dy);
    return {da, db};
  }
  static at::Tensor float_matmul(const at::Tensor& a, const at::Tensor& b) {
    if (b.dim() > 2) return at::matmul(a.to(at::kFloat), b.to(at::kFloat)).to(a.scalar_type());
    const at::Tensor rows = as_rows(a), bt = b.t();
    return shaped_as(a, bt.is_contiguous() ? float_linear(rows, bt.size(0), rows_of(bt)) : float_times(rows, b.size(1), rows_of(b)));
  }
};
}  // namespace

at::Tensor matmul(const at::Tensor& a, const at::Tensor& b) {
  const bool batched = b.dim() > 2 && b.dim() == a.dim() && a.sizes().slice(0, a.dim() - 2) == b.sizes().slice(0, b.dim() - 2);
  if (!goes_through_float(a, b) || !(b.dim() == 2 || batched)) return at::matmul(a, b);
  return is_recorded(a, b, {}) ? FloatMatmul::apply(a, b) : FloatMatmul::float_matmul(a, b);
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (!is_ours(x, weight, bias)) {
    if (!goes_through_float(x, weight)) return bias.defined() ? at::linear(x, weight, bias) : at::linear(x, weight);
    if (is_recorded(x, weight, bias)) return FloatLinear::apply(x, weight, bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt);
    return shaped_as(x, float_linear(as_rows(x), weight.size(0), rows_of(weight), bias));
  }
  const int64_t in = weight.size(1), out = weight.size(0), count = x.numel() / in;
  const at::Tensor dense = x.contiguous();
  std::vector<float> spread(static_cast<size_t>(count * in));
  const at::BFloat16* from = dense.const_data_ptr<at::BFloat16>();
  for (int64_t k = 0; k < count * in; k += kPair)
    for (int64_t i = 0; i < kLanes; ++i) {
      spread[k + i] = from[k + 2 * i];
      spread[k + kLanes + i] = from[k + 2 * i + 1];
    }
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = out;
  at::Tensor y = at::empty(shape, x.options());
  const Job job{.x = spread.data(),
                .weight = weight.const_data_ptr<at::BFloat16>(),
                .bias = bias.defined() ? bias.const_data_ptr<at::BFloat16>() : nullptr,
                .y = y.mutable_data_ptr<at::BFloat16>(),
                .rows = count,
                .in = in,
                .out = out};
  if (in * out < kSerialElements)
    multiply(job, 0, out);
  else
    parallel_for(out, std::max<int64_t>(kOutputs, kSerialElements / in), [&](int64_t begin, int64_t end) { multiply(job, begin, end); });
  return y;
}

}  // namespace tenon::nn
