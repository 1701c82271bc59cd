#pragma once
// The dense product of generation: a few rows with a large weight, which is read once, at the speed of memory.
#include <ATen/core/Tensor.h>

#include "tenon/export.h"

namespace tenon::nn {

// at::linear. On the CPU, up to 16 bfloat16 rows without a gradient go through a kernel of ours: sums in float32, rounded once at the end; a row's
// result depends neither on the other rows nor on the number of threads.
TENON_API at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

}  // namespace tenon::nn
