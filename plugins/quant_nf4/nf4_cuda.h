// The kernels on CUDA: the same layout and the same bits as kernels.h, with every pointer on the device.
//
// Each call queues work on a stream and returns; nothing is allocated and nothing waits, so that the calls can be captured
// into a CUDA graph. A failed launch throws std::runtime_error.
#pragma once

#include "kernels.h"

namespace tenon::nf4::cuda {

// False: every other function throws std::runtime_error("built without CUDA").
bool is_built();

struct Place {
  int device;
  void* stream;  // a cudaStream_t of it
};

// As Kernels::quantize. `count` elements from a block border; a last block that is not full is the end of the tensor.
void quantize(const void* source, Dtype dtype, std::int64_t count, Codebook codebook, std::int32_t block, std::uint8_t* codes,
              float* absmax, Place place);

// As their namesakes in kernels.h. (The mean that gives `offset` has an order of its own: take it from mean_absmax.)
void quantize_absmax(const float* absmax, std::int64_t count, float offset, std::uint8_t* codes, float* nested_absmax, Place place);
void dequantize_absmax(const std::uint8_t* codes, const float* nested_absmax, float offset, std::int64_t count, float* absmax, Place place);

// As Kernels::dequantize.
void dequantize(const Weight& weight, std::int64_t begin, std::int64_t count, Dtype dtype, void* out, Place place);

// y[m, rows] = x[m, cols] * weight^T, both contiguous and of one dtype; products and sums in float32.
void multiply(const Weight& weight, const void* x, Dtype dtype, std::int64_t m, void* y, Place place);

}  // namespace tenon::nf4::cuda
