#pragma once
// Products of half-precision matrices on processors that have no instructions for them. LibTorch emulates those, several times to several hundred times
// slower than float32; here both sides become float32 first, a large weight panel by panel, and the sums are rounded once.
#include <ATen/core/Tensor.h>

#include <functional>

namespace tenon::nn {

// Rows [first, last) of a weight, in x's dtype.
using WeightRows = std::function<at::Tensor(int64_t first, int64_t last)>;

// x [m, in] . weight [out, in] transposed, + bias [out] where defined -> [m, out] in x's dtype.
at::Tensor float_linear(const at::Tensor& x, int64_t out, const WeightRows& weight, const at::Tensor& bias = {});
// x [m, out] . weight [out, in] -> [m, in] in x's dtype.
at::Tensor float_times(const at::Tensor& x, int64_t in, const WeightRows& weight);

}  // namespace tenon::nn
