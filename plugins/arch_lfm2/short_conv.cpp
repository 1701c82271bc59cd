#include "short_conv.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <vector>

namespace tenon::lfm2 {

at::Tensor same_segment(const at::Tensor& segments, const at::Tensor& key_segments, int64_t reach) {
  constexpr int64_t kNone = -1;
  const int64_t tokens = segments.size(1), near = std::min(key_segments.size(1), reach + tokens);
  const at::Tensor keys = at::constant_pad_nd(key_segments.narrow(1, key_segments.size(1) - near, near), {reach + tokens - near, 0}, kNone);
  std::vector<at::Tensor> sees;
  for (int64_t j = 0; j < reach; ++j) sees.push_back(at::eq(keys.narrow(1, j, tokens), segments));
  return at::stack(sees, 2);
}

at::Tensor short_conv(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& sees) {
  const int64_t reach = weight.size(2) - 1, tokens = x.size(1) - reach;
  const at::Tensor wide = x.to(at::kFloat), taps = weight.squeeze(1).to(at::kFloat).t();
  at::Tensor y;
  for (int64_t j = 0; j <= reach; ++j) {
    at::Tensor part = wide.narrow(1, j, tokens) * taps.select(0, j);
    if (sees.defined() && j < reach) part = at::where(sees.select(2, j).unsqueeze(2), part, at::scalar_tensor(0, part.options()));
    y = y.defined() ? y + part : part;
  }
  if (bias.defined()) y = y + bias.to(at::kFloat);
  return y.to(x.scalar_type());
}

}  // namespace tenon::lfm2
