#include "float_product.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <c10/util/accumulate.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "tenon/nn/linear.h"

namespace tenon::nn {

namespace {

constexpr int64_t kPanelElements = int64_t{2} << 20;    // of the weight: 8 MB as float32
constexpr int64_t kScratchElements = int64_t{4} << 20;  // 16 MB
constexpr int64_t kTokens = 1024;                       // rows of x at a time: the float32 form of long inputs would be large

struct Instructions {
  bool bfloat16 = true, float16 = true;
};

Instructions detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  Instructions has{__builtin_cpu_supports("avx512bf16") != 0, __builtin_cpu_supports("avx512fp16") != 0};
  if (const char* level = std::getenv("TENON_CPU"); level != nullptr && *level != '\0' && std::string_view(level) != "avx512bf16")
    has = {false, false};
  return has;
#else
  return {};
#endif
}

int64_t rows_of_panel(int64_t columns) { return std::max<int64_t>(1, kPanelElements / std::max<int64_t>(1, columns)); }

// What comes and goes in one call, in memory that the thread keeps: among long-lived activations it would leave holes in the heap. Large ones do not
// stay. One for each role, which no two values have at a time.
enum Role { kInput, kWeight, kResult };
at::Tensor scratch(Role role, at::IntArrayRef sizes) {
  thread_local at::Tensor kept[3];
  const int64_t count = c10::multiply_integers(sizes);
  if (count > kScratchElements) return at::empty(sizes, at::kFloat);
  at::Tensor& memory = kept[role];
  if (!memory.defined() || memory.numel() < count) memory = at::empty({count}, at::kFloat);
  return memory.narrow(0, 0, count).view(sizes);
}

at::Tensor in_float(Role role, const at::Tensor& half) {
  at::Tensor wide = scratch(role, half.sizes());
  return wide.copy_(half);
}

}  // namespace

bool is_faster_in_float(const at::Tensor& x) {
  static const Instructions has = detect();
  return x.is_cpu() && ((x.scalar_type() == at::kBFloat16 && !has.bfloat16) || (x.scalar_type() == at::kHalf && !has.float16));
}

at::Tensor float_linear(const at::Tensor& x, int64_t out, const WeightRows& weight, const at::Tensor& bias) {
  const at::NoGradGuard no_grad;
  const at::Tensor offset = bias.defined() ? bias.to(at::kFloat) : at::Tensor(), y = at::empty({x.size(0), out}, x.options());
  const int64_t panel_rows = rows_of_panel(x.size(1));
  for (int64_t row = 0; row < x.size(0); row += kTokens) {
    const int64_t tokens = std::min(kTokens, x.size(0) - row);
    const at::Tensor from = in_float(kInput, x.narrow(0, row, tokens));
    for (int64_t first = 0; first < out; first += panel_rows) {
      const int64_t rows = std::min(panel_rows, out - first);
      const at::Tensor panel = in_float(kWeight, weight(first, first + rows)).t();
      at::Tensor part = scratch(kResult, {tokens, rows});
      if (offset.defined())
        at::addmm_out(part, offset.narrow(0, first, rows), from, panel);
      else
        at::mm_out(part, from, panel);
      y.narrow(0, row, tokens).narrow(1, first, rows).copy_(part);
    }
  }
  return y;
}

at::Tensor float_times(const at::Tensor& x, int64_t in, const WeightRows& weight) {
  const at::NoGradGuard no_grad;
  const at::Tensor y = at::empty({x.size(0), in}, x.options());
  const int64_t out = x.size(1), panel_rows = rows_of_panel(in);
  for (int64_t row = 0; row < x.size(0); row += kTokens) {
    const int64_t tokens = std::min(kTokens, x.size(0) - row);
    at::Tensor sum = scratch(kResult, {tokens, in});
    if (out == 0) sum.zero_();
    for (int64_t first = 0; first < out; first += panel_rows) {
      const int64_t rows = std::min(panel_rows, out - first);
      const at::Tensor from = in_float(kInput, x.narrow(0, row, tokens).narrow(1, first, rows));
      const at::Tensor panel = in_float(kWeight, weight(first, first + rows));
      if (first == 0)
        at::mm_out(sum, from, panel);
      else
        sum.addmm_(from, panel);
    }
    y.narrow(0, row, tokens).copy_(sum);
  }
  return y;
}

}  // namespace tenon::nn
