#pragma once
// What the CUDA kernels of this plugin share: elements of any dtype, runs of eight of them, launching. Internal linkage, in each file its own.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "int8_cuda.h"

namespace tenon::int8::cuda {
namespace {

constexpr unsigned kFull = 0xffffffffu;
constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kRun = 8;  // elements that a thread takes at a time
constexpr float kUnit = 1.0f / 127.0f;

// ---- elements ----

__device__ inline float from_bits16(std::uint16_t bits, Dtype dtype) {
  if (dtype == Dtype::Bf16) return __uint_as_float(static_cast<unsigned>(bits) << 16);
  __half half;
  memcpy(&half, &bits, sizeof half);
  return __half2float(half);
}
__device__ inline std::uint16_t half_bits(float value) {
  const __half half = __float2half_rn(value);
  std::uint16_t bits;
  memcpy(&bits, &half, sizeof bits);
  return bits;
}
__device__ inline std::uint16_t to_bits16(float value, Dtype dtype) {
  if (dtype == Dtype::F16) return half_bits(value);
  const unsigned bits = __float_as_uint(value);
  return value != value ? std::uint16_t{0x7fc0} : static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
__device__ inline float element(const void* data, Dtype dtype, std::int64_t i) {
  return dtype == Dtype::F32 ? static_cast<const float*>(data)[i] : from_bits16(static_cast<const std::uint16_t*>(data)[i], dtype);
}
__device__ inline void store(void* data, Dtype dtype, std::int64_t i, float value) {
  if (dtype == Dtype::F32)
    static_cast<float*>(data)[i] = value;
  else
    static_cast<std::uint16_t*>(data)[i] = to_bits16(value, dtype);
}

// Elements [first, first + count) of up to kRun, zeros behind them. is_wide: `first` lies on 16 bytes and all are there.
__device__ inline void load_run(const void* data, Dtype dtype, std::int64_t first, int count, bool is_wide, float (&values)[kRun]) {
  if (is_wide && dtype == Dtype::F32) {
    const uint4* from = reinterpret_cast<const uint4*>(static_cast<const float*>(data) + first);
    const uint4 words[2] = {from[0], from[1]};
    memcpy(values, words, sizeof words);
  } else if (is_wide) {
    const uint4 words = *reinterpret_cast<const uint4*>(static_cast<const std::uint16_t*>(data) + first);
    std::uint16_t bits[kRun];
    memcpy(bits, &words, sizeof words);
#pragma unroll
    for (int i = 0; i < kRun; ++i) values[i] = from_bits16(bits[i], dtype);
  } else {
#pragma unroll
    for (int i = 0; i < kRun; ++i) values[i] = i < count ? element(data, dtype, first + i) : 0.0f;
  }
}
__device__ inline void store_run(void* data, Dtype dtype, std::int64_t first, int count, bool is_wide, const float (&values)[kRun]) {
  if (is_wide && dtype == Dtype::F32) {
    uint4 words[2];
    memcpy(words, values, sizeof words);
    uint4* to = reinterpret_cast<uint4*>(static_cast<float*>(data) + first);
    to[0] = words[0], to[1] = words[1];
  } else if (is_wide) {
    std::uint16_t bits[kRun];
#pragma unroll
    for (int i = 0; i < kRun; ++i) bits[i] = to_bits16(values[i], dtype);
    uint4 words;
    memcpy(&words, bits, sizeof words);
    *reinterpret_cast<uint4*>(static_cast<std::uint16_t*>(data) + first) = words;
  } else {
    for (int i = 0; i < count; ++i) store(data, dtype, first + i, values[i]);
  }
}

__device__ inline int run_count(std::int64_t first, std::int64_t cols) {
  return static_cast<int>(cols - first < kRun ? cols - first : kRun);
}

// ---- launching ----

// The device of the tensors, whichever the caller has.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    cudaGetDevice(&before_);
    changed_ = before_ != device && cudaSetDevice(device) == cudaSuccess;
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }

 private:
  int before_ = 0;
  bool changed_ = false;
};

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA launch failed: ") + cudaGetErrorString(error));
}

inline unsigned blocks_for(std::int64_t work, std::int64_t per_block) {
  const std::int64_t blocks = (work + per_block - 1) / per_block;
  if (blocks > 0x7fffffff) throw std::runtime_error("a tensor is too large for one launch");
  return static_cast<unsigned>(blocks);
}
inline unsigned at_most(std::int64_t blocks, unsigned most) { return blocks < most ? static_cast<unsigned>(blocks) : most; }

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, Place place, Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0) return;
  const OnDevice guard(place.device);
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = dim3(kThreads), config.stream = static_cast<cudaStream_t>(place.stream);
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

inline bool is_aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }
constexpr unsigned kMostBlocksY = 65535;

}  // namespace
}  // namespace tenon::int8::cuda
