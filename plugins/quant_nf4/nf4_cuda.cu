// The kernels on CUDA. Arithmetic that decides stored bits uses the rounding intrinsics, so that no flag and no fused
// multiply-add can change it.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "codebooks.h"
#include "nf4_cuda.h"

namespace tenon::nf4::cuda {
namespace {

constexpr unsigned kFull = 0xffffffffu;
constexpr int kWarp = 32;
constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kRun = 8;  // elements that a thread takes at a time: one 32-bit word of codes
constexpr float kLeastAbsmax = 1e-38f;

// ---- tables, copied from constant to shared memory, where lanes may read different entries at once ----

struct CodeTable {
  float values[kCodes];
  float bounds[kCodes];  // the last one is never reached
  std::uint8_t by_rank[kCodes];
};

constexpr CodeTable make_code_table(Codebook codebook) {
  CodeTable table{};
  for (int i = 0; i < kCodes; ++i) {
    table.values[i] = detail::values_of(codebook)[i];
    table.bounds[i] = i + 1 < kCodes ? detail::ranks_of(codebook).bounds[i] : 2.0f;
    table.by_rank[i] = detail::ranks_of(codebook).by_rank[i];
  }
  return table;
}

struct DynamicMap {
  float values[kNestedCodes];
};

constexpr DynamicMap make_dynamic_map() {
  DynamicMap map{};
  for (int i = 0; i < kNestedCodes; ++i) map.values[i] = detail::kDynamicMap[i];
  return map;
}

__constant__ const CodeTable kCodeTables[2] = {make_code_table(Codebook::Nf4), make_code_table(Codebook::Fp4)};
__constant__ const DynamicMap kMap = make_dynamic_map();

struct SharedTables {
  float values[kCodes];
  float map[kNestedCodes];
};

__device__ void load_tables(SharedTables& tables, Codebook codebook) {
  for (int i = threadIdx.x; i < kNestedCodes; i += blockDim.x) tables.map[i] = kMap.values[i];
  if (threadIdx.x < kCodes) tables.values[threadIdx.x] = kCodeTables[static_cast<int>(codebook)].values[threadIdx.x];
  __syncthreads();
}

__device__ float block_absmax(const Weight& weight, const float* map, std::int64_t block) {
  if (weight.absmax != nullptr) return weight.absmax[block];
  const float scaled = __fmul_rn(map[weight.absmax_codes[block]], weight.nested_absmax[block / kNestedBlock]);
  return __fadd_rn(scaled, weight.nested_offset);
}

// ---- elements ----

struct Bf16 {
  std::uint16_t bits;
};

__device__ float to_float(float value) { return value; }
__device__ float to_float(Bf16 value) { return __uint_as_float(static_cast<std::uint32_t>(value.bits) << 16); }
__device__ float to_float(__half value) { return __half2float(value); }

__device__ void from_float(float value, float& out) { out = value; }
__device__ void from_float(float value, Bf16& out) {
  const std::uint32_t bits = __float_as_uint(value);
  out.bits = value != value ? 0x7fc0 : static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
__device__ void from_float(float value, __half& out) { out = __float2half_rn(value); }

// kRun elements in 16-byte pieces; the address is a multiple of 16.
template <class T>
struct alignas(16) Run {
  T items[kRun];
};

// ---- quantize: a warp to each block ----

__device__ int code_of(const CodeTable& table, float scaled) {
  if (scaled != scaled) return table.by_rank[kCodes - 1];
  int rank = 0;
  for (int step = 8; step > 0; step /= 2) rank += scaled > table.bounds[rank + step - 1] ? step : 0;
  return table.by_rank[rank];
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    quantize_kernel(const T* source, std::int64_t count, Codebook codebook, std::int32_t block, std::uint8_t* codes, float* absmax) {
  __shared__ CodeTable table;
  const auto* from = reinterpret_cast<const std::uint8_t*>(&kCodeTables[static_cast<int>(codebook)]);
  for (int i = threadIdx.x; i < static_cast<int>(sizeof(CodeTable)); i += kThreads) {
    reinterpret_cast<std::uint8_t*>(&table)[i] = from[i];
  }
  __syncthreads();
  const int lane = threadIdx.x % kWarp;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const std::int64_t begin = index * block;
  if (begin >= count) return;
  const auto size = static_cast<int>(count - begin < block ? count - begin : block);
  const T* values = source + begin;

  std::uint32_t bits = 0;  // magnitudes order like their bits, and a NaN is above them all
  for (int i = lane; i < size; i += kWarp) {
    const std::uint32_t magnitude = __float_as_uint(to_float(values[i])) & 0x7fffffffu;
    bits = magnitude > bits ? magnitude : bits;
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const std::uint32_t other = __shfl_xor_sync(kFull, bits, step);
    bits = other > bits ? other : bits;
  }
  const float largest = __uint_as_float(bits > 0x7f800000u ? 0x7fc00000u : bits);
  const float divisor = largest < kLeastAbsmax ? kLeastAbsmax : largest;
  const float factor = __fdiv_rn(1.0f, divisor);
  const bool is_full = size == block;  // the short end of a tensor is divided, as bitsandbytes does
  if (lane == 0) absmax[index] = is_full ? largest : divisor;

  auto code = [&](int i) {
    if (i >= size) return code_of(table, 0.0f);
    const float value = to_float(values[i]);
    return code_of(table, is_full ? __fmul_rn(value, factor) : __fdiv_rn(value, divisor));
  };
  for (int i = 2 * lane; i < size; i += 2 * kWarp) {
    codes[(begin + i) / 2] = static_cast<std::uint8_t>(code(i) << 4 | code(i + 1));
  }
}

// ---- double quantization: a CUDA block to each nested block ----

__global__ void __launch_bounds__(kNestedBlock)
    quantize_absmax_kernel(const float* absmax, std::int64_t count, float offset, std::uint8_t* codes, float* nested_absmax) {
  __shared__ float largest[kNestedBlock];
  __shared__ float bounds[kNestedCodes];
  const int t = threadIdx.x;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kNestedBlock + t;
  const float value = i < count ? __fsub_rn(absmax[i], offset) : 0.0f;
  largest[t] = fmaxf(0.0f, fabsf(value));  // passes a NaN over, as bitsandbytes does
  bounds[t] = t + 1 < kNestedCodes ? __fmul_rn(0.5f, __fadd_rn(kMap.values[t], kMap.values[t + 1])) : 2.0f;
  for (int step = kNestedBlock / 2; step > 0; step /= 2) {
    __syncthreads();
    if (t < step) largest[t] = fmaxf(largest[t], largest[t + step]);
  }
  __syncthreads();
  if (t == 0) nested_absmax[blockIdx.x] = largest[0];
  if (i >= count) return;
  const float scaled = __fmul_rn(value, __fdiv_rn(1.0f, largest[0]));
  if (largest[0] == 0.0f || scaled != scaled) {
    codes[i] = 0;
    return;
  }
  // Onto a grid of 65535 steps first, then to the nearest code from there: the grid is part of the format's arithmetic.
  const float unit = __fmul_rn(__fadd_rn(fminf(fmaxf(scaled, -1.0f), 1.0f), 1.0f), 0.5f);
  const int step = static_cast<int>(__fmaf_rn(unit, 65535.0f, 0.5f));
  const float on_grid = __fadd_rn(-1.0f, __fdiv_rn(__fmul_rn(2.0f, static_cast<float>(step)), 65535.0f));
  int rank = 0;
  for (int half = kNestedCodes / 2; half > 0; half /= 2) rank += bounds[rank + half - 1] < on_grid ? half : 0;
  codes[i] = static_cast<std::uint8_t>(rank);
}

__global__ void __launch_bounds__(kThreads)
    dequantize_absmax_kernel(const std::uint8_t* codes, const float* nested_absmax, float offset, std::int64_t count, float* absmax) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  absmax[i] = __fadd_rn(__fmul_rn(kMap.values[codes[i]], nested_absmax[i / kNestedBlock]), offset);
}

// ---- dequantize: a thread to each run of eight ----

template <class T>
__global__ void __launch_bounds__(kThreads)
    dequantize_kernel(Weight weight, std::int64_t begin, std::int64_t count, T* out, bool is_aligned) {
  __shared__ SharedTables tables;
  load_tables(tables, weight.codebook);
  if (weight.nested_offset_at != nullptr) weight.nested_offset = *weight.nested_offset_at;
  const std::int64_t end = begin + count;
  const std::int64_t run = begin / kRun + static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t first = run * kRun;
  if (first >= end) return;
  const float absmax = block_absmax(weight, tables.map, first / weight.block);  // blocks are whole runs
  auto value = [&](std::int64_t i) {
    const std::uint8_t pair = weight.codes[i / 2];
    T out_value;
    from_float(__fmul_rn(tables.values[i % 2 != 0 ? pair & 15 : pair >> 4], absmax), out_value);
    return out_value;
  };
  if (is_aligned && first >= begin && first + kRun <= end) {
    Run<T> values;
    for (int j = 0; j < kRun; ++j) values.items[j] = value(first + j);
    *reinterpret_cast<Run<T>*>(out + (first - begin)) = values;
    return;
  }
  for (std::int64_t i = first < begin ? begin : first; i < end && i < first + kRun; ++i) out[i - begin] = value(i);
}

// ---- multiply: a warp to each row of the weight, kM rows of x ----

// Rows are whole runs: a lane takes eight neighbours of one block, 32 lanes read 128 bytes of codes in one go.
template <class T, int kM>
__device__ void sum_runs(const Weight& weight, const SharedTables& tables, const T* x, std::int64_t n, int lane, float (&sums)[kM]) {
  const auto* words = reinterpret_cast<const std::uint32_t*>(weight.codes) + n * (weight.cols / kRun);
  const std::int64_t row = n * weight.cols;
#pragma unroll 4
  for (std::int64_t k = lane * kRun; k < weight.cols; k += kWarp * kRun) {
    const std::uint32_t word = words[k / kRun];
    const float absmax = block_absmax(weight, tables.map, (row + k) / weight.block);
    float values[kRun];
    for (int j = 0; j < kRun; ++j) values[j] = tables.values[word >> (4 * (j ^ 1)) & 15];  // high nibble first
    for (int i = 0; i < kM; ++i) {
      const Run<T> run = *reinterpret_cast<const Run<T>*>(x + i * weight.cols + k);
      float sum = 0;
      for (int j = 0; j < kRun; ++j) sum = fmaf(values[j], to_float(run.items[j]), sum);
      sums[i] = fmaf(sum, absmax, sums[i]);
    }
  }
}

// Any row.
template <class T, int kM>
__device__ void sum_elements(const Weight& weight, const SharedTables& tables, const T* x, std::int64_t n, int lane, float (&sums)[kM]) {
  for (std::int64_t k = lane; k < weight.cols; k += kWarp) {
    const std::int64_t at = n * weight.cols + k;
    const std::uint8_t pair = weight.codes[at / 2];
    const float absmax = block_absmax(weight, tables.map, at / weight.block);
    const float value = tables.values[at % 2 != 0 ? pair & 15 : pair >> 4] * absmax;
    for (int i = 0; i < kM; ++i) sums[i] = fmaf(value, to_float(x[i * weight.cols + k]), sums[i]);
  }
}

template <class T, int kM>
__global__ void __launch_bounds__(kThreads) multiply_kernel(Weight weight, const T* x, T* y, bool has_runs) {
  __shared__ SharedTables tables;
  load_tables(tables, weight.codebook);
  if (weight.nested_offset_at != nullptr) weight.nested_offset = *weight.nested_offset_at;
  const int lane = threadIdx.x % kWarp;
  const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (n >= weight.rows) return;
  float sums[kM] = {};
  if (has_runs) {
    sum_runs<T, kM>(weight, tables, x, n, lane, sums);
  } else {
    sum_elements<T, kM>(weight, tables, x, n, lane, sums);
  }
  for (int i = 0; i < kM; ++i) {
    for (int step = kWarp / 2; step > 0; step /= 2) sums[i] += __shfl_xor_sync(kFull, sums[i], step);
    if (lane == 0) from_float(sums[i], y[i * weight.rows + n]);
  }
}

// ---- launching ----

unsigned blocks_for(std::int64_t work, std::int64_t per_block) {
  const std::int64_t blocks = (work + per_block - 1) / per_block;
  if (blocks > 0x7fffffff) throw std::runtime_error("a tensor is too large for one launch");
  return static_cast<unsigned>(blocks);
}

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

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, Place place, Arguments... arguments) {
  if (blocks == 0) return;
  const OnDevice guard(place.device);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks), config.blockDim = dim3(threads), config.stream = static_cast<cudaStream_t>(place.stream);
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA launch failed: ") + cudaGetErrorString(error));
}

// Calls work with a null pointer of the element type.
template <class Work>
void with_type(Dtype dtype, Work work) {
  switch (dtype) {
    case Dtype::F32: return work(static_cast<float*>(nullptr));
    case Dtype::Bf16: return work(static_cast<Bf16*>(nullptr));
    case Dtype::F16: return work(static_cast<__half*>(nullptr));
  }
}

bool is_aligned_to_16(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

template <int kM, class T>
void multiply_tile(const Weight& weight, const T*& x, std::int64_t& m, T*& y, bool has_runs, Place place) {
  for (; m >= kM; m -= kM, x += kM * weight.cols, y += kM * weight.rows) {
    launch(multiply_kernel<T, kM>, blocks_for(weight.rows, kWarps), kThreads, place, weight, x, y, has_runs);
  }
}

}  // namespace

bool is_built() { return true; }

void quantize(const void* source, Dtype dtype, std::int64_t count, Codebook codebook, std::int32_t block, std::uint8_t* codes,
              float* absmax, Place place) {
  with_type(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    launch(quantize_kernel<T>, blocks_for(block_count(count, block), kWarps), kThreads, place, static_cast<const T*>(source), count,
           codebook, block, codes, absmax);
  });
}

void quantize_absmax(const float* absmax, std::int64_t count, float offset, std::uint8_t* codes, float* nested_absmax, Place place) {
  launch(quantize_absmax_kernel, blocks_for(count, kNestedBlock), kNestedBlock, place, absmax, count, offset, codes, nested_absmax);
}

void dequantize_absmax(const std::uint8_t* codes, const float* nested_absmax, float offset, std::int64_t count, float* absmax,
                       Place place) {
  launch(dequantize_absmax_kernel, blocks_for(count, kThreads), kThreads, place, codes, nested_absmax, offset, count, absmax);
}

void dequantize(const Weight& weight, std::int64_t begin, std::int64_t count, Dtype dtype, void* out, Place place) {
  if (count == 0) return;
  const std::int64_t runs = (begin + count + kRun - 1) / kRun - begin / kRun;
  with_type(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    const bool is_aligned = begin % kRun == 0 && is_aligned_to_16(out);
    launch(dequantize_kernel<T>, blocks_for(runs, kThreads), kThreads, place, weight, begin, count, static_cast<T*>(out), is_aligned);
  });
}

void multiply(const Weight& weight, const void* x, Dtype dtype, std::int64_t m, void* y, Place place) {
  const bool has_runs = weight.cols % kRun == 0 && is_aligned_to_16(x) && is_aligned_to_16(weight.codes);
  with_type(dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    const T* from = static_cast<const T*>(x);
    T* to = static_cast<T*>(y);
    std::int64_t left = m;
    multiply_tile<8>(weight, from, left, to, has_runs, place);
    multiply_tile<4>(weight, from, left, to, has_runs, place);
    multiply_tile<2>(weight, from, left, to, has_runs, place);
    multiply_tile<1>(weight, from, left, to, has_runs, place);
  });
}

}  // namespace tenon::nf4::cuda
