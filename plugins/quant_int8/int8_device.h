#pragma once
// Tensors on a GPU, for the kernels of int8_cuda.h.
#include <vector>

#include "int8_cuda.h"
#include "tenon/stable/ops.h"
#include "tenon/stable/plugin.h"

namespace tenon::int8 {

Dtype kernel_dtype(stable::ScalarType dtype);

// The device of a tensor and the stream that LibTorch uses there.
cuda::Place place_of(const stable::Tensor& t);

// x: [rows, in], contiguous. One product for each weight, in x's dtype, of `shape` but for its last dimension. Nothing waits for the device.
stable::Tensors multiply_on_device(const std::vector<Weight>& weights, const stable::Tensor& x, std::vector<int64_t> shape,
                                   double threshold);

}  // namespace tenon::int8
