#pragma once
// Services of the host for code that launches kernels itself.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "tenon/export.h"

namespace tenon {

// The cudaStream_t that LibTorch currently uses on a CUDA device. Error(Device) when LibTorch's CUDA library is not loaded.
TENON_API void* current_cuda_stream(at::Device device);

// Runs body(begin, end) over disjoint parts of [0, n), each at least `grain` long, on the intra-op threads that LibTorch uses; on the calling thread
// alone inside the host's own workers. Results must not depend on the cut.
TENON_API void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

}  // namespace tenon
