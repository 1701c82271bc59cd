#pragma once
// Second moments of activations: sum += x^T x, the one product of calibration that grows with the texts.
#include <ATen/core/Tensor.h>

#include "kernels.h"

namespace tenon::gptq {

// x: [tokens, columns] on the CPU; sum: float32 [columns, columns], of which the part on and right of the diagonal is kept up to date (and some of the
// rest is overwritten). Products of bfloat16 values are exact in float32, so that they are summed there without being converted first.
// `k`: whose kernels; the result depends on them, not on the number of threads.
void add_moments(const at::Tensor& x, at::Tensor& sum, const Kernels& k = kernels());

// What add_moments holds while it runs.
int64_t moments_bytes(int64_t columns);

}  // namespace tenon::gptq
