// The kernels on CUDA: the layout of kernels.h and the same dequantized bits; every pointer is on the device.
//
// Each call queues work on a stream and returns: nothing is allocated and nothing waits, so that the calls can be captured into a CUDA graph. A failed
// launch throws std::runtime_error.
#pragma once

#include "kernels.h"

namespace tenon::gptq::cuda {

// False: every other function throws std::runtime_error("built without CUDA").
bool is_built();

struct Place {
  int device;
  void* stream;  // a cudaStream_t of it
};

// Rows [begin, end) of the dense weight, in its own column order; in the order of the codes where weight.order is null.
void dequantize(const Weight& weight, std::int64_t begin, std::int64_t end, Dtype dtype, void* out, Place place);

// y[m, rows] = x[m, cols] * weight^T for m <= kFusedRows, both contiguous and of one dtype, x in the order of the codes. In bfloat16 and float16 code - zero
// is exact, sums are float32 and scales are applied to the sums of each group; in float32 everything is.
void multiply(const Weight& weight, const void* x, Dtype dtype, std::int64_t m, void* y, Place place);

}  // namespace tenon::gptq::cuda
