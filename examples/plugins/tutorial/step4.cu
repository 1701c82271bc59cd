// One thread a byte: two codes.
#include "step4_cuda.h"
#include "tenon/device.h"

namespace tutorial {

namespace {
__global__ void unpack_kernel(const uint8_t* codes, const float* scales, int group, int64_t bytes, float* rows) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= bytes) return;
  const float scale = scales[2 * i / group];
  rows[2 * i] = scale * static_cast<float>((codes[i] >> 4) - 8);
  rows[2 * i + 1] = scale * static_cast<float>((codes[i] & 15) - 8);
}
}  // namespace

bool has_cuda() { return true; }

void unpack(const at::Tensor& codes, const at::Tensor& scales, int64_t group, at::Tensor& rows) {
  constexpr int kThreads = 256;
  const int64_t bytes = codes.numel();
  unpack_kernel<<<static_cast<unsigned>((bytes + kThreads - 1) / kThreads), kThreads, 0,
                  static_cast<cudaStream_t>(tenon::current_cuda_stream(codes.device()))>>>(
      codes.const_data_ptr<uint8_t>(), scales.const_data_ptr<float>(), static_cast<int>(group), bytes, rows.mutable_data_ptr<float>());
}

}  // namespace tutorial
