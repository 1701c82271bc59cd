#pragma once
#include <ATen/core/Tensor.h>

namespace tutorial {

bool has_cuda();  // built by nvcc
// codes: [n, in / 2] bytes, scales: [n, in / group] float32 -> rows [n, in] float32, all on one GPU; runs on the current stream.
void unpack(const at::Tensor& codes, const at::Tensor& scales, int64_t group, at::Tensor& rows);

}  // namespace tutorial
