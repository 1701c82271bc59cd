#pragma once
// Root-mean-square norms.
#include <ATen/core/Tensor.h>

#include "tenon/export.h"

namespace tenon::nn {

// x / sqrt(mean(x^2) + eps) * weight over the last dimension, [..., width] -> [..., width] in dtype `out`. Computed in float32; the normalised
// value is rounded to x's dtype before it meets the weight, as transformers does. Keeps x and one number a row for the backward pass.
TENON_API at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::ScalarType out);

}  // namespace tenon::nn
