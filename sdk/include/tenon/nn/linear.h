#pragma once
// Dense products. Half precision on a CPU without instructions for it is multiplied in float32 and rounded once.
#include <ATen/core/Tensor.h>

#include "tenon/export.h"

namespace tenon::nn {

// Whether this processor multiplies such tensors faster through float32: half precision on a CPU without instructions for it. TENON_CPU below
// "avx512bf16" counts as without.
TENON_API bool is_faster_in_float(const at::Tensor& x);

// at::linear; differentiable. On the CPU, up to 16 bfloat16 rows without a gradient go through a kernel of ours, which reads the weight once, at the
// speed of memory: sums in float32, rounded once at the end; a row's result depends neither on the other rows nor on the number of threads.
TENON_API at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

// at::matmul; differentiable. a: [..., k], b: [k, n], or both with the same leading dimensions.
TENON_API at::Tensor matmul(const at::Tensor& a, const at::Tensor& b);

}  // namespace tenon::nn
