// Products on CUDA: int8 tensor cores, int32 sums.
#include <cuda_pipeline.h>

#include "int8_cuda_parts.cuh"

namespace tenon::int8::cuda {
namespace {

constexpr int kDepth = 64;  // columns in a step: sixteen to each of four lanes

// ---- tensor cores ----

#ifdef __CUDACC__
// d += a * b^T over 32 int8 columns; 16 rows of a, 8 of b.
__device__ __forceinline__ void mma_s8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// The same over 16 columns of two bytes each.
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
using cuda_on_cpu::mma_bf16, cuda_on_cpu::mma_f16, cuda_on_cpu::mma_s8;
#endif

// A sum over columns does not mind their order, as long as both operands have the same one: where the instruction wants columns 4t.. and 16+4t.. of
// lane t, it gets words of the sixteen columns 16t.. instead, which lie together in memory.
__device__ __forceinline__ void multiply_depth(int (&sums)[4], const uint4& top, const uint4& bottom, const uint4& other) {
  const unsigned first[4] = {top.x, bottom.x, top.y, bottom.y}, second[4] = {top.z, bottom.z, top.w, bottom.w};
  const unsigned first_other[2] = {other.x, other.y}, second_other[2] = {other.z, other.w};
  mma_s8(sums, first, first_other);
  mma_s8(sums, second, second_other);
}

// ---- products ----

struct Output {
  void* y;
  Dtype dtype;
  std::int32_t* sums;  // not null: the accumulators, and no y
};

// Sixteen codes of a row; zeros where there are none. kWide: all rows lie on 16 bytes.
template <bool kWide>
__device__ __forceinline__ uint4 load_codes(const Weight& weight, std::int64_t row, std::int64_t column) {
  if (row >= weight.rows || column >= weight.cols) return make_uint4(0, 0, 0, 0);
  const std::int8_t* from = weight.codes + row * weight.cols + column;
  if (kWide) return __ldg(reinterpret_cast<const uint4*>(from));
  unsigned words[4] = {0, 0, 0, 0};
  const int count = static_cast<int>(weight.cols - column < 16 ? weight.cols - column : 16);
  for (int i = 0; i < count; ++i) words[i / 4] |= static_cast<unsigned>(static_cast<std::uint8_t>(from[i])) << (8 * (i % 4));
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Up to 8 * kTiles rows of x: a block to 16 rows of the weight, its warps take turns along the columns. The weight is read once, 64 bytes of each row
// at a time, and is the operand with 16 rows; x comes from the caches.
template <int kTiles, bool kWide>
__global__ void __launch_bounds__(kThreads) multiply_small_kernel(Weight weight, Input in, Output out) {
  constexpr int kRows = 16, kColumns = 8 * kTiles;
  __shared__ int partial[kWarps][kRows][kColumns];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, group = lane / 4, within = lane % 4;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kRows;
  int sums[kTiles][4] = {};
#pragma unroll 4
  for (std::int64_t k = warp * kDepth; k < in.stride; k += kWarps * kDepth) {
    const std::int64_t at = k + within * 16;
    const uint4 top = load_codes<kWide>(weight, first + group, at), bottom = load_codes<kWide>(weight, first + group + 8, at);
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const int row = 8 * j + group;
      const uint4 x = row < in.rows ? *reinterpret_cast<const uint4*>(in.codes + row * in.stride + at) : make_uint4(0, 0, 0, 0);
      multiply_depth(sums[j], top, bottom, x);
    }
  }
#pragma unroll
  for (int j = 0; j < kTiles; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) partial[warp][group + (i < 2 ? 0 : 8)][8 * j + within * 2 + i % 2] = sums[j][i];
  __syncthreads();

  // Now a warp to two rows of the weight, a lane to each row of x.
  const int outliers = out.sums == nullptr ? in.count[0] : 0;
  for (int r = 2 * warp; r < 2 * warp + 2; ++r) {
    const std::int64_t n = first + r;
    if (n >= weight.rows) return;
    float mine = 0;
    if (outliers > 0) {
      float apart[kColumns] = {};
      for (int k = lane; k < outliers; k += kWarp) {
        const int column = in.columns[k];
        const float code = static_cast<float>(weight.codes[n * weight.cols + column]);
#pragma unroll
        for (int i = 0; i < kColumns; ++i)
          if (i < in.rows) apart[i] = fmaf(element(in.x, in.dtype, i * in.cols + column), code, apart[i]);
      }
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        for (int step = kWarp / 2; step > 0; step /= 2) apart[i] += __shfl_xor_sync(kFull, apart[i], step);
        mine = lane == i ? apart[i] : mine;
      }
    }
    if (lane >= in.rows) continue;
    int sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += partial[w][r][lane];
    const std::int64_t at = lane * weight.rows + n;
    if (out.sums != nullptr)
      out.sums[at] = sum;
    else
      store(out.y, out.dtype, at, (static_cast<float>(sum) * (in.scales[lane] * kUnit) + mine) * (weight.scales[n] * kUnit));
  }
}

// Many rows of x: a block to kM rows of it and 128 of the weight, in steps of 64 columns that are fetched two steps ahead. A warp has kM / 2 by 32 sums.
// Rows lie 64 bytes apart in shared memory: eight lanes read two of them whole, which is every bank once.
constexpr int kN = 128;
constexpr int kStages = 3;
constexpr int kApart = 16;  // outlier columns at a time

template <int kM>
struct Stages {
  alignas(16) std::int8_t x[kStages][kM][kDepth];
  alignas(16) std::int8_t weight[kStages][kN][kDepth];
};
template <int kM>
struct Outliers {
  float x[kM][kApart + 1];
  float weight[kN][kApart + 1];
};

__device__ __forceinline__ unsigned packed(float low, float high, Dtype dtype) {  // exact: values of x, or codes
  return to_bits16(low, dtype) | static_cast<unsigned>(to_bits16(high, dtype)) << 16;
}

template <int kM>
__device__ __forceinline__ void fetch(Stages<kM>& stages, int stage, std::int64_t k, const Weight& weight, const Input& in, bool is_wide) {
  constexpr int kPieces = kDepth / 16;
  const std::int64_t m0 = static_cast<std::int64_t>(blockIdx.x) * kM, n0 = static_cast<std::int64_t>(blockIdx.y) * kN;
#pragma unroll
  for (int i = threadIdx.x; i < (kM + kN) * kPieces; i += kThreads) {
    const int row = i / kPieces, column = i % kPieces * 16;
    if (row < kM) {
      auto* to = reinterpret_cast<uint4*>(&stages.x[stage][row][column]);
      if (m0 + row < in.rows)
        __pipeline_memcpy_async(to, in.codes + (m0 + row) * in.stride + k + column, 16);
      else
        *to = make_uint4(0, 0, 0, 0);
    } else {
      const std::int64_t n = n0 + row - kM;
      auto* to = reinterpret_cast<uint4*>(&stages.weight[stage][row - kM][column]);
      if (is_wide && n < weight.rows && k + column < weight.cols)
        __pipeline_memcpy_async(to, weight.codes + n * weight.cols + k + column, 16);
      else
        *to = load_codes<false>(weight, n, k + column);
    }
  }
}

template <int kM>
__global__ void __launch_bounds__(kThreads) multiply_tiles_kernel(Weight weight, Input in, Output out, bool is_wide) {
  constexpr int kTilesM = kM / 32, kTilesN = 4;  // of a warp, 16 by 8 each
  union Shared {
    Stages<kM> stages;
    Outliers<kM> outliers;
  };
  __shared__ Shared shared;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, group = lane / 4, within = lane % 4;
  const int row0 = warp / 4 * (kM / 2), column0 = warp % 4 * 32;
  int sums[kTilesM][kTilesN][4] = {};

  const auto steps = static_cast<int>(in.stride / kDepth);
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) fetch<kM>(shared.stages, s, s * kDepth, weight, in, is_wide);
    __pipeline_commit();
  }
  for (int s = 0; s < steps; ++s) {
    __pipeline_wait_prior(kStages - 2);
    __syncthreads();  // this step is there for all, and nobody reads the one before any more
    if (const int next = s + kStages - 1; next < steps)
      fetch<kM>(shared.stages, next % kStages, static_cast<std::int64_t>(next) * kDepth, weight, in, is_wide);
    __pipeline_commit();
    const auto& x = shared.stages.x[s % kStages];
    const auto& w = shared.stages.weight[s % kStages];
    uint4 right[kTilesN];
#pragma unroll
    for (int j = 0; j < kTilesN; ++j) right[j] = *reinterpret_cast<const uint4*>(&w[column0 + 8 * j + group][within * 16]);
#pragma unroll
    for (int i = 0; i < kTilesM; ++i) {
      const uint4 top = *reinterpret_cast<const uint4*>(&x[row0 + 16 * i + group][within * 16]);
      const uint4 bottom = *reinterpret_cast<const uint4*>(&x[row0 + 16 * i + group + 8][within * 16]);
#pragma unroll
      for (int j = 0; j < kTilesN; ++j) multiply_depth(sums[i][j], top, bottom, right[j]);
    }
  }

  const std::int64_t m0 = static_cast<std::int64_t>(blockIdx.x) * kM, n0 = static_cast<std::int64_t>(blockIdx.y) * kN;
  if (out.sums != nullptr) {
    for (int i = 0; i < kTilesM; ++i)
      for (int j = 0; j < kTilesN; ++j)
        for (int e = 0; e < 4; ++e) {
          const std::int64_t m = m0 + row0 + 16 * i + group + (e < 2 ? 0 : 8), n = n0 + column0 + 8 * j + within * 2 + e % 2;
          if (m < in.rows && n < weight.rows) out.sums[m * weight.rows + n] = sums[i][j][e];
        }
    return;
  }
  // As multiples of the weight's scale / 127, to which outliers add x * code.
  float values[kTilesM][kTilesN][4];
#pragma unroll
  for (int i = 0; i < kTilesM; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const std::int64_t m = m0 + row0 + 16 * i + group + (e < 2 ? 0 : 8);
      const float scale = m < in.rows ? in.scales[m] * kUnit : 0.0f;
#pragma unroll
      for (int j = 0; j < kTilesN; ++j) values[i][j][e] = static_cast<float>(sums[i][j][e]) * scale;
    }
  const int outliers = in.count[0];
  for (int k0 = 0; k0 < outliers; k0 += kApart) {
    __syncthreads();  // the memory has been read
    for (int i = threadIdx.x; i < (kM + kN) * kApart; i += kThreads) {
      const int row = i / kApart, k = i % kApart;
      const int column = k0 + k < outliers ? in.columns[k0 + k] : -1;
      if (row < kM)
        shared.outliers.x[row][k] = column >= 0 && m0 + row < in.rows ? element(in.x, in.dtype, (m0 + row) * in.cols + column) : 0.0f;
      else
        shared.outliers.weight[row - kM][k] =
            column >= 0 && n0 + row - kM < weight.rows ? static_cast<float>(weight.codes[(n0 + row - kM) * weight.cols + column]) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kTilesM; ++i) {
      const auto& top = shared.outliers.x[row0 + 16 * i + group];
      const auto& bottom = shared.outliers.x[row0 + 16 * i + group + 8];
      if (in.dtype == Dtype::F32) {  // no tensor core multiplies these without rounding
#pragma unroll
        for (int j = 0; j < kTilesN; ++j)
          for (int e = 0; e < 4; ++e) {
            const auto& w = shared.outliers.weight[column0 + 8 * j + within * 2 + e % 2];
            for (int k = 0; k < kApart; ++k) values[i][j][e] = fmaf(e < 2 ? top[k] : bottom[k], w[k], values[i][j][e]);
          }
        continue;
      }
      const int k = within * 2;
      const unsigned left[4] = {packed(top[k], top[k + 1], in.dtype), packed(bottom[k], bottom[k + 1], in.dtype),
                                packed(top[k + 8], top[k + 9], in.dtype), packed(bottom[k + 8], bottom[k + 9], in.dtype)};
#pragma unroll
      for (int j = 0; j < kTilesN; ++j) {
        const auto& w = shared.outliers.weight[column0 + 8 * j + group];
        const unsigned right[2] = {packed(w[k], w[k + 1], in.dtype), packed(w[k + 8], w[k + 9], in.dtype)};
        if (in.dtype == Dtype::F16)
          mma_f16(values[i][j], left, right);
        else
          mma_bf16(values[i][j], left, right);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kTilesN; ++j)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const std::int64_t n = n0 + column0 + 8 * j + within * 2 + e;
      if (n >= weight.rows) continue;
      const float scale = weight.scales[n] * kUnit;
#pragma unroll
      for (int i = 0; i < kTilesM; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const std::int64_t m = m0 + row0 + 16 * i + group + 8 * half;
          if (m < in.rows) store(out.y, out.dtype, m * weight.rows + n, values[i][j][2 * half + e] * scale);
        }
    }
}

// ---- launching ----

void product(const Weight& weight, const Input& in, const Output& out, Place place) {
  if (in.rows == 0) return;
  const bool is_wide = weight.cols % 16 == 0 && is_aligned(weight.codes);
  if (in.rows <= kSmallRows) {
    const dim3 grid(blocks_for(weight.rows, 16));
    if (in.rows <= 8)
      launch(is_wide ? multiply_small_kernel<1, true> : multiply_small_kernel<1, false>, grid, place, weight, in, out);
    else
      launch(is_wide ? multiply_small_kernel<2, true> : multiply_small_kernel<2, false>, grid, place, weight, in, out);
    return;
  }
  const unsigned across = blocks_for(weight.rows, kN);
  if (across > kMostBlocksY) throw std::runtime_error("a weight has too many rows for one launch");
  if (in.rows <= 64)
    launch(multiply_tiles_kernel<64>, dim3(blocks_for(in.rows, 64), across), place, weight, in, out, is_wide);
  else
    launch(multiply_tiles_kernel<128>, dim3(blocks_for(in.rows, 128), across), place, weight, in, out, is_wide);
}

}  // namespace

void multiply(const Weight& weight, const Input& in, void* y, Dtype y_dtype, Place place) {
  product(weight, in, {y, y_dtype, nullptr}, place);
}
void accumulate(const Weight& weight, const Input& in, std::int32_t* sums, Place place) {
  product(weight, in, {nullptr, Dtype::F32, sums}, place);
}

}  // namespace tenon::int8::cuda
