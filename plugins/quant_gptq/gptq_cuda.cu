// The kernels on CUDA. Arithmetic that decides dequantized bits uses the rounding intrinsics, so that no flag and no fused multiply-add can change it.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "gptq_cuda.h"

namespace tenon::gptq::cuda {
namespace {

constexpr unsigned kFull = 0xffffffffu;
constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kRun = 8;                   // codes that a thread takes at a time: `bits` bytes, all of one group
constexpr int kOrderedBytes = 48 * 1024;  // of shared memory: a row that is put in order there

// ---- tensor cores ----

#ifdef __CUDACC__
// d += a * b^T over 16 columns of two bytes each; 16 rows of a, 8 of b.
__device__ __forceinline__ void mma_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
using cuda_on_cpu::mma_bf16, cuda_on_cpu::mma_f16;
#endif

// ---- elements and codes ----

__device__ __forceinline__ float half_to_float(std::uint16_t bits) {
  __half half;
  memcpy(&half, &bits, sizeof half);
  return __half2float(half);
}
__device__ __forceinline__ float from_bits16(std::uint16_t bits, Dtype dtype) {
  return dtype == Dtype::Bf16 ? __uint_as_float(static_cast<unsigned>(bits) << 16) : half_to_float(bits);
}
__device__ __forceinline__ std::uint16_t to_bits16(float value, Dtype dtype) {
  if (dtype == Dtype::F16) {
    const __half half = __float2half_rn(value);
    std::uint16_t bits;
    memcpy(&bits, &half, sizeof bits);
    return bits;
  }
  const unsigned bits = __float_as_uint(value);
  return value != value ? std::uint16_t{0x7fc0} : static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
__device__ __forceinline__ float element(const void* data, Dtype dtype, std::int64_t i) {
  return dtype == Dtype::F32 ? static_cast<const float*>(data)[i] : from_bits16(static_cast<const std::uint16_t*>(data)[i], dtype);
}
__device__ __forceinline__ void store(void* data, Dtype dtype, std::int64_t i, float value) {
  if (dtype == Dtype::F32)
    static_cast<float*>(data)[i] = value;
  else
    static_cast<std::uint16_t*>(data)[i] = to_bits16(value, dtype);
}

// Eight codes, from column 8 * run of a row on: 2, 3 or 4 bits each in `low`, 8 bits in both.
struct Codes {
  unsigned low, high;
};
template <int kBits>
__device__ __forceinline__ Codes load_codes(const std::uint32_t* row, std::int64_t run) {
  if (kBits == 2) return {__ldg(row + run / 2) >> (run % 2 * 16) & 0xffffu, 0};
  if (kBits == 3) {  // 24 bits, which may reach into the next word
    const std::int64_t bit = run * 24;
    const unsigned at = static_cast<unsigned>(bit % 32);
    const unsigned word = __ldg(row + bit / 32), next = at > 8 ? __ldg(row + bit / 32 + 1) : 0u;
    return {__funnelshift_r(word, next, at) & 0xffffffu, 0};
  }
  if (kBits == 4) return {__ldg(row + run), 0};
  const uint2 words = __ldg(reinterpret_cast<const uint2*>(row) + run);  // rows are whole runs of 32 codes
  return {words.x, words.y};
}
template <int kBits>
__device__ __forceinline__ int code(const Codes& codes, int i) {
  const unsigned word = kBits == 8 && i >= 4 ? codes.high : codes.low;
  return static_cast<int>(word >> (kBits * (kBits == 8 ? i % 4 : i)) & ((1u << kBits) - 1));
}

// What the codes of one group of one row mean.
struct Meaning {
  float scale;
  int zero;
};
__device__ __forceinline__ Meaning meaning_of(const Weight& weight, std::int64_t groups, std::int64_t row, std::int64_t group) {
  return {half_to_float(weight.scales[row * groups + group]), weight.zeros[row * groups + group]};
}
template <int kBits>
__device__ __forceinline__ void dequantized(const Weight& weight, std::int64_t groups, std::int64_t row, std::int64_t run,
                                            float (&values)[kRun]) {
  const Codes codes = load_codes<kBits>(weight.codes + row * (weight.cols * kBits / 32), run);
  const Meaning m = meaning_of(weight, groups, row, run * kRun / weight.group);
#pragma unroll
  for (int i = 0; i < kRun; ++i) values[i] = __fmul_rn(static_cast<float>(code<kBits>(codes, i) - m.zero), m.scale);
}

// ---- dequantize ----

__device__ __forceinline__ void store_run(void* out, Dtype dtype, std::int64_t at, bool is_wide, const float (&values)[kRun]) {
  if (!is_wide) {
    for (int i = 0; i < kRun; ++i) store(out, dtype, at + i, values[i]);
  } else if (dtype == Dtype::F32) {
    uint4 words[2];
    memcpy(words, values, sizeof words);
    uint4* to = reinterpret_cast<uint4*>(static_cast<float*>(out) + at);
    to[0] = words[0], to[1] = words[1];
  } else {
    std::uint16_t bits[kRun];
#pragma unroll
    for (int i = 0; i < kRun; ++i) bits[i] = to_bits16(values[i], dtype);
    uint4 words;
    memcpy(&words, bits, sizeof words);
    *reinterpret_cast<uint4*>(static_cast<std::uint16_t*>(out) + at) = words;
  }
}

// In the order of the codes: a thread to each run.
template <int kBits>
__global__ void __launch_bounds__(kThreads)
    dequantize_kernel(Weight weight, std::int64_t begin, std::int64_t end, Dtype dtype, void* out, bool is_wide) {
  const std::int64_t run = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x,
                     groups = (weight.cols + weight.group - 1) / weight.group;
  if (run >= weight.cols / kRun) return;
  float values[kRun];
  for (std::int64_t row = begin + blockIdx.y; row < end; row += gridDim.y) {
    dequantized<kBits>(weight, groups, row, run, values);
    store_run(out, dtype, (row - begin) * weight.cols + run * kRun, is_wide, values);
  }
}

struct alignas(16) OrderedRow {
  unsigned char bytes[kOrderedBytes];
};

// In the weight's own order: a block to each row, which is put in order in shared memory where it fits there.
template <int kBits>
__global__ void __launch_bounds__(kThreads)
    dequantize_ordered_kernel(Weight weight, std::int64_t begin, std::int64_t end, Dtype dtype, void* out, bool is_wide) {
  __shared__ OrderedRow shared;
  const std::int64_t groups = (weight.cols + weight.group - 1) / weight.group, row_bytes = weight.cols * (dtype == Dtype::F32 ? 4 : 2);
  const bool fits = is_wide && row_bytes <= kOrderedBytes;
  float values[kRun];
  for (std::int64_t row = begin + blockIdx.x; row < end; row += gridDim.x) {
    unsigned char* dense = static_cast<unsigned char*>(out) + (row - begin) * row_bytes;
    for (std::int64_t run = threadIdx.x; run < weight.cols / kRun; run += kThreads) {
      dequantized<kBits>(weight, groups, row, run, values);
      for (int i = 0; i < kRun; ++i) store(fits ? shared.bytes : dense, dtype, weight.order[run * kRun + i], values[i]);
    }
    if (!fits) continue;
    __syncthreads();
    for (std::int64_t i = threadIdx.x; i < row_bytes / 16; i += kThreads)
      reinterpret_cast<uint4*>(dense)[i] = reinterpret_cast<const uint4*>(shared.bytes)[i];
    __syncthreads();
  }
}

// ---- multiply: up to 16 rows of x, a block to 16 rows of the weight ----

// Codes j and j + 4 of a run side by side, as the two halves of a word: code - zero, exact in either dtype.
template <int kBits>
__device__ __forceinline__ void spread(const Codes& codes, int zero, Dtype dtype, unsigned (&pairs)[4]) {
  if constexpr (kBits == 8) {
    if (dtype == Dtype::F16) {  // 0x6400 is 1024, where the last bit counts one
      const std::uint16_t base = static_cast<std::uint16_t>(0x6400 + zero);
      const unsigned both = base | static_cast<unsigned>(base) << 16;
      __half2 offset;
      memcpy(&offset, &both, sizeof offset);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const unsigned word = __byte_perm(codes.low, codes.high, static_cast<unsigned>(j | (j + 4) << 8)) & 0x00ff00ffu;
        const unsigned raised = word | 0x64006400u;
        __half2 value;
        memcpy(&value, &raised, sizeof value);
        value = __hsub2(value, offset);
        memcpy(&pairs[j], &value, sizeof value);
      }
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        pairs[j] = to_bits16(static_cast<float>(code<8>(codes, j) - zero), Dtype::Bf16) |
                   static_cast<unsigned>(to_bits16(static_cast<float>(code<8>(codes, j + 4) - zero), Dtype::Bf16)) << 16;
    }
  } else {
    constexpr unsigned kMask = (1u << kBits) - 1, kPairMask = kMask | kMask << 16;
    // The upper four codes go to the upper half.
    const unsigned word = kBits == 4 ? codes.low : (codes.low & ((1u << (4 * kBits)) - 1)) | (codes.low >> (4 * kBits)) << 16;
    if (dtype == Dtype::F16) {
      const unsigned base = 0x6400u + static_cast<unsigned>(zero), both = base | base << 16;
      __half2 offset;
      memcpy(&offset, &both, sizeof offset);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const unsigned raised = (word >> (kBits * j) & kPairMask) | 0x64006400u;
        __half2 value;
        memcpy(&value, &raised, sizeof value);
        value = __hsub2(value, offset);
        memcpy(&pairs[j], &value, sizeof value);
      }
    } else {  // 0x4300 is 128, where the last bit counts one
      const unsigned base = 0x4300u + static_cast<unsigned>(zero), both = base | base << 16;
      __nv_bfloat162 offset;
      memcpy(&offset, &both, sizeof offset);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const unsigned raised = (word >> (kBits * j) & kPairMask) | 0x43004300u;
        __nv_bfloat162 value;
        memcpy(&value, &raised, sizeof value);
        value = __hsub2(value, offset);
        memcpy(&pairs[j], &value, sizeof value);
      }
    }
  }
}

// The columns of a run are given to the instruction in the order 0 4 1 5 2 6 3 7, for codes and for x alike.
__device__ __forceinline__ void pair_up(const uint4& x, unsigned (&pairs)[4]) {
  pairs[0] = __byte_perm(x.x, x.z, 0x5410), pairs[1] = __byte_perm(x.x, x.z, 0x7632);
  pairs[2] = __byte_perm(x.y, x.w, 0x5410), pairs[3] = __byte_perm(x.y, x.w, 0x7632);
}

// Sums of all warps, in their order, to y.
template <int kColumns>
__device__ __forceinline__ void finish(const float (&partial)[kWarps][16][kColumns], std::int64_t first, std::int64_t rows, std::int64_t m,
                                       Dtype dtype, void* y) {
  __syncthreads();
  for (int i = threadIdx.x; i < 16 * kColumns; i += kThreads) {
    const int row = i % 16, column = i / 16;
    if (first + row >= rows || column >= m) continue;
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += partial[w][row][column];
    store(y, dtype, column * rows + first + row, sum);
  }
}

// A group is whole steps of 32 columns, eight to each of four lanes. Each warp has its own part of the columns.
template <int kBits, Dtype kDtype, int kTiles>
__global__ void __launch_bounds__(kThreads) multiply_kernel(Weight weight, const std::uint16_t* x, std::int64_t m, void* y) {
  constexpr int kColumns = 8 * kTiles;
  __shared__ float partial[kWarps][16][kColumns];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, lane_group = lane / 4, within = lane % 4;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * 16, groups = (weight.cols + weight.group - 1) / weight.group;
  const std::int64_t last_row = weight.rows - 1;  // who has no row of the weight takes this one, for nothing
  const std::int64_t top = first + lane_group < last_row ? first + lane_group : last_row;
  const std::int64_t bottom = first + lane_group + 8 < last_row ? first + lane_group + 8 : last_row;
  const std::uint32_t* top_codes = weight.codes + top * (weight.cols * kBits / 32);
  const std::uint32_t* bottom_codes = weight.codes + bottom * (weight.cols * kBits / 32);
  const std::int64_t steps = weight.cols / 32, begin = steps * warp / kWarps, end = steps * (warp + 1) / kWarps;
  const std::int64_t steps_per_group = weight.group / 32;
  float totals[kTiles][4] = {};
  for (std::int64_t step = begin; step < end;) {
    const std::int64_t group = step / steps_per_group, next = (group + 1) * steps_per_group, stop = next < end ? next : end;
    const Meaning above = meaning_of(weight, groups, top, group), below = meaning_of(weight, groups, bottom, group);
    float sums[kTiles][4] = {};
#pragma unroll 4
    for (; step < stop; ++step) {
      unsigned a[4], b[4];
      spread<kBits>(load_codes<kBits>(top_codes, step * 4 + within), above.zero, kDtype, a);
      spread<kBits>(load_codes<kBits>(bottom_codes, step * 4 + within), below.zero, kDtype, b);
      const unsigned first_half[4] = {a[0], b[0], a[1], b[1]}, second_half[4] = {a[2], b[2], a[3], b[3]};
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        const int row = 8 * j + lane_group;
        const uint4 words =
            row < m ? __ldg(reinterpret_cast<const uint4*>(x + row * weight.cols + step * 32 + within * 8)) : make_uint4(0, 0, 0, 0);
        unsigned pairs[4];
        pair_up(words, pairs);
        const unsigned first_x[2] = {pairs[0], pairs[1]}, second_x[2] = {pairs[2], pairs[3]};
        if (kDtype == Dtype::F16) {
          mma_f16(sums[j], first_half, first_x);
          mma_f16(sums[j], second_half, second_x);
        } else {
          mma_bf16(sums[j], first_half, first_x);
          mma_bf16(sums[j], second_half, second_x);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kTiles; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) totals[j][e] = fmaf(sums[j][e], e < 2 ? above.scale : below.scale, totals[j][e]);
  }
#pragma unroll
  for (int j = 0; j < kTiles; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) partial[warp][lane_group + (e < 2 ? 0 : 8)][8 * j + within * 2 + e % 2] = totals[j][e];
  finish<kColumns>(partial, first, weight.rows, m, kDtype, y);
}

// Any dtype, any group and address, in float32: a warp to each row of the weight, four rows of x at a time.
constexpr int kPlainRows = 4;
template <int kBits>
__global__ void __launch_bounds__(kThreads)
    multiply_plain_kernel(Weight weight, const void* x, Dtype dtype, std::int64_t m, void* y, bool is_wide) {
  const int lane = threadIdx.x % kWarp;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp,
                     groups = (weight.cols + weight.group - 1) / weight.group;
  if (row >= weight.rows) return;
  for (std::int64_t first = 0; first < m; first += kPlainRows) {
    float sums[kPlainRows] = {};
    for (std::int64_t run = lane; run < weight.cols / kRun; run += kWarp) {
      float values[kRun];
      dequantized<kBits>(weight, groups, row, run, values);
#pragma unroll
      for (int i = 0; i < kPlainRows; ++i) {
        if (first + i >= m) break;
        const std::int64_t at = (first + i) * weight.cols + run * kRun;
        float inputs[kRun];
        if (is_wide && dtype == Dtype::F32) {
          const uint4* from = reinterpret_cast<const uint4*>(static_cast<const float*>(x) + at);
          const uint4 words[2] = {from[0], from[1]};
          memcpy(inputs, words, sizeof words);
        } else {
          for (int j = 0; j < kRun; ++j) inputs[j] = element(x, dtype, at + j);
        }
#pragma unroll
        for (int j = 0; j < kRun; ++j) sums[i] = fmaf(values[j], inputs[j], sums[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < kPlainRows; ++i) {
      for (int step = kWarp / 2; step > 0; step /= 2) sums[i] += __shfl_xor_sync(kFull, sums[i], step);
      if (lane == 0 && first + i < m) store(y, dtype, (first + i) * weight.rows + row, sums[i]);
    }
  }
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

unsigned blocks_for(std::int64_t work, std::int64_t per_block) {
  const std::int64_t blocks = (work + per_block - 1) / per_block;
  if (blocks > 0x7fffffff) throw std::runtime_error("a tensor is too large for one launch");
  return static_cast<unsigned>(blocks);
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, Place place, Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0) return;
  const OnDevice guard(place.device);
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = dim3(kThreads), config.stream = static_cast<cudaStream_t>(place.stream);
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA launch failed: ") + cudaGetErrorString(error));
}

bool is_aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

template <int kBits>
void dequantize_rows(const Weight& weight, std::int64_t begin, std::int64_t end, Dtype dtype, void* out, Place place) {
  const bool is_wide = is_aligned(out);  // rows are whole runs
  const auto rows = static_cast<unsigned>(end - begin < 65535 ? end - begin : 65535);
  if (weight.order != nullptr)
    launch(dequantize_ordered_kernel<kBits>, dim3(rows), place, weight, begin, end, dtype, out, is_wide);
  else
    launch(dequantize_kernel<kBits>, dim3(blocks_for(weight.cols, kRun * kThreads), rows), place, weight, begin, end, dtype, out, is_wide);
}

template <int kBits, Dtype kDtype>
void multiply_halves(const Weight& weight, const void* x, std::int64_t m, void* y, Place place) {
  launch(m <= 8 ? multiply_kernel<kBits, kDtype, 1> : multiply_kernel<kBits, kDtype, 2>, dim3(blocks_for(weight.rows, 16)), place, weight,
         static_cast<const std::uint16_t*>(x), m, y);
}

template <int kBits>
void multiply_rows(const Weight& weight, const void* x, Dtype dtype, std::int64_t m, void* y, Place place) {
  const bool is_wide = is_aligned(x);
  if (dtype == Dtype::F32 || !is_wide || weight.group % 32 != 0)
    launch(multiply_plain_kernel<kBits>, dim3(blocks_for(weight.rows, kWarps)), place, weight, x, dtype, m, y, is_wide);
  else if (dtype == Dtype::F16)
    multiply_halves<kBits, Dtype::F16>(weight, x, m, y, place);
  else
    multiply_halves<kBits, Dtype::Bf16>(weight, x, m, y, place);
}

}  // namespace

bool is_built() { return true; }

void dequantize(const Weight& weight, std::int64_t begin, std::int64_t end, Dtype dtype, void* out, Place place) {
  switch (weight.bits) {
    case 2: return dequantize_rows<2>(weight, begin, end, dtype, out, place);
    case 3: return dequantize_rows<3>(weight, begin, end, dtype, out, place);
    case 4: return dequantize_rows<4>(weight, begin, end, dtype, out, place);
    default: return dequantize_rows<8>(weight, begin, end, dtype, out, place);
  }
}

void multiply(const Weight& weight, const void* x, Dtype dtype, std::int64_t m, void* y, Place place) {
  if (m == 0) return;
  switch (weight.bits) {
    case 2: return multiply_rows<2>(weight, x, dtype, m, y, place);
    case 3: return multiply_rows<3>(weight, x, dtype, m, y, place);
    case 4: return multiply_rows<4>(weight, x, dtype, m, y, place);
    default: return multiply_rows<8>(weight, x, dtype, m, y, place);
  }
}

}  // namespace tenon::gptq::cuda
