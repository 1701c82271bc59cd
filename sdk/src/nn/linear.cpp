#include "tenon/nn/linear.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>

#include <algorithm>
#include <vector>

#include "cpu_rows.h"
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

bool is_ours(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const int64_t in = weight.size(1);
  if (!x.is_cpu() || !weight.is_cpu() || x.scalar_type() != at::kBFloat16 || weight.scalar_type() != at::kBFloat16 || in % kPair != 0 ||
      in == 0 || x.dim() < 1 || x.size(-1) != in || x.numel() == 0 || x.numel() > kMaxRows * in || !weight.is_contiguous())
    return false;
  if (bias.defined() && (bias.scalar_type() != at::kBFloat16 || !bias.is_contiguous())) return false;
  return !at::GradMode::is_enabled() || !(x.requires_grad() || weight.requires_grad() || (bias.defined() && bias.requires_grad()));
}
}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (!is_ours(x, weight, bias)) return bias.defined() ? at::linear(x, weight, bias) : at::linear(x, weight);
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
