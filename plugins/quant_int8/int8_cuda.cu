// Quantizing and dequantizing on CUDA. Arithmetic that decides stored bits uses the rounding intrinsics, so that no flag and no fused multiply-add can
// change it.
#include "int8_cuda_parts.cuh"

namespace tenon::int8::cuda {
namespace {

constexpr int kMarkWords = 4096;  // of shared memory: 131072 columns

// ---- quantize: a block of threads to each row ----

// Of all threads, to all threads.
__device__ unsigned block_max(unsigned value) {
  __shared__ unsigned of_warp[kWarps];
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const unsigned other = __shfl_xor_sync(kFull, value, step);
    value = other > value ? other : value;
  }
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  for (int i = 0; i < kWarps; ++i) value = of_warp[i] > value ? of_warp[i] : value;
  __syncthreads();
  return value;
}
__device__ unsigned magnitude_bits(float value) { return __float_as_uint(value) & 0x7fffffffu; }  // ordered as values are, NaN above all
__device__ float code_factor(float scale) { return __fmul_rn(__fdiv_rn(1.0f, scale), 127.0f); }   // in the two steps that LibTorch takes
__device__ unsigned code_byte(float value, float factor) {
  const float rounded = rintf(__fmul_rn(value, factor));
  return static_cast<unsigned>(rounded >= -128.0f && rounded <= 127.0f ? static_cast<int>(rounded) : 0) & 0xffu;
}
__device__ void store_codes(std::int8_t* codes, int count, bool is_wide, const unsigned (&bytes)[kRun]) {
  if (is_wide) {
    *reinterpret_cast<uint2*>(codes) =
        make_uint2(bytes[0] | bytes[1] << 8 | bytes[2] << 16 | bytes[3] << 24, bytes[4] | bytes[5] << 8 | bytes[6] << 16 | bytes[7] << 24);
  } else {
    for (int i = 0; i < count; ++i) codes[i] = static_cast<std::int8_t>(bytes[i]);
  }
}

__global__ void __launch_bounds__(kThreads)
    quantize_rows_kernel(const void* weight, Dtype dtype, std::int64_t cols, std::int8_t* codes, float* scales, bool is_wide) {
  const std::int64_t row = blockIdx.x, start = row * cols;
  float values[kRun];
  unsigned largest = 0;
  for (std::int64_t c = threadIdx.x * kRun; c < cols; c += kThreads * kRun) {
    load_run(weight, dtype, start + c, run_count(c, cols), is_wide, values);
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      const unsigned bits = magnitude_bits(from_bits16(half_bits(values[i]), Dtype::F16));
      largest = bits > largest ? bits : largest;
    }
  }
  const float scale = __uint_as_float(block_max(largest)), factor = code_factor(scale);
  if (threadIdx.x == 0) scales[row] = scale;
  for (std::int64_t c = threadIdx.x * kRun; c < cols; c += kThreads * kRun) {
    unsigned bytes[kRun];
    load_run(weight, dtype, start + c, run_count(c, cols), is_wide, values);
#pragma unroll
    for (int i = 0; i < kRun; ++i) bytes[i] = code_byte(from_bits16(half_bits(values[i]), Dtype::F16), factor);
    store_codes(codes + start + c, run_count(c, cols), is_wide, bytes);
  }
}

__device__ unsigned outliers_of_run(const float (&values)[kRun], float threshold) {
  unsigned found = 0;
#pragma unroll
  for (int i = 0; i < kRun; ++i) found |= fabsf(values[i]) >= threshold ? 1u << i : 0u;
  return found;
}

// Marks of many rows: a thread to each run of columns and kMarkedRows rows.
constexpr int kMarkedRows = 32;
__global__ void __launch_bounds__(kThreads) mark_kernel(Input in, bool is_wide) {
  const std::int64_t c = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kRun;
  if (c >= in.cols) return;
  unsigned found = 0;
  float values[kRun];
  for (std::int64_t row = static_cast<std::int64_t>(blockIdx.y) * kMarkedRows; row < in.rows;
       row += static_cast<std::int64_t>(gridDim.y) * kMarkedRows)
    for (std::int64_t r = row; r < in.rows && r < row + kMarkedRows; ++r) {
      load_run(in.x, in.dtype, r * in.cols + c, run_count(c, in.cols), is_wide, values);
      found |= outliers_of_run(values, in.threshold);
    }
  if (found != 0) atomicOr(in.marks + c / 32, found << (c % 32));
}

// The marked columns in ascending order; by all threads of one block.
__device__ void list_columns(const Input& in, const std::uint32_t* marks) {
  __shared__ int of_warp[kWarps];
  const int words = static_cast<int>((in.cols + 31) / 32), share = (words + kThreads - 1) / kThreads;
  const int begin = static_cast<int>(threadIdx.x) * share, end = begin + share < words ? begin + share : words;
  int mine = 0;
  for (int w = begin; w < end; ++w) mine += __popc(marks[w]);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int before = mine;  // of the lanes up to this one
  for (int step = 1; step < kWarp; step *= 2) {
    const int other = __shfl_up_sync(kFull, before, step);
    before += lane >= step ? other : 0;
  }
  if (lane == kWarp - 1) of_warp[warp] = before;
  __syncthreads();
  int at = before - mine, all = 0;
  for (int w = 0; w < kWarps; ++w) {
    at += w < warp ? of_warp[w] : 0;
    all += of_warp[w];
  }
  for (int w = begin; w < end; ++w)
    for (unsigned left = marks[w]; left != 0; left &= left - 1) in.columns[at++] = w * 32 + __popc((left & (0u - left)) - 1);
  if (threadIdx.x == 0) in.count[0] = all;
}

// finds: each block looks through all rows itself, so that few rows take one launch; else the marks are there.
__global__ void __launch_bounds__(kThreads) quantize_activation_kernel(Input in, bool finds, bool is_wide) {
  __shared__ std::uint32_t found[kMarkWords];
  const std::uint32_t* marks = in.marks;
  const bool has_outliers = in.threshold > 0;
  float values[kRun];
  if (finds && has_outliers) {
    auto* bytes = reinterpret_cast<std::uint8_t*>(found);
    const std::int64_t whole = (in.cols + 31) / 32 * 32;
    for (std::int64_t c = threadIdx.x * kRun; c < whole; c += kThreads * kRun) {
      unsigned bits = 0;
      for (std::int64_t row = 0; row < in.rows && c < in.cols; ++row) {
        load_run(in.x, in.dtype, row * in.cols + c, run_count(c, in.cols), is_wide, values);
        bits |= outliers_of_run(values, in.threshold);
      }
      bytes[c / kRun] = static_cast<std::uint8_t>(bits);
    }
    marks = found;
    __syncthreads();
  }
  const std::int64_t row = blockIdx.x, start = row * in.cols;
  unsigned largest = 0;
  for (std::int64_t c = threadIdx.x * kRun; c < in.cols; c += kThreads * kRun) {
    load_run(in.x, in.dtype, start + c, run_count(c, in.cols), is_wide, values);
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      const unsigned bits = has_outliers && fabsf(values[i]) >= in.threshold ? 0u : magnitude_bits(values[i]);
      largest = bits > largest ? bits : largest;
    }
  }
  const float scale = __uint_as_float(block_max(largest)), factor = code_factor(scale);
  if (threadIdx.x == 0) in.scales[row] = scale;
  for (std::int64_t c = threadIdx.x * kRun; c < in.stride; c += kThreads * kRun) {
    unsigned bytes[kRun];
    const int count = c < in.cols ? run_count(c, in.cols) : 0;
    load_run(in.x, in.dtype, start + c, count, is_wide && count == kRun, values);
    const unsigned marked = has_outliers && count > 0 ? marks[c / 32] >> (c % 32) : 0u;
#pragma unroll
    for (int i = 0; i < kRun; ++i) bytes[i] = (marked >> i & 1u) != 0 ? 0u : code_byte(values[i], factor);
    store_codes(in.codes + row * in.stride + c, kRun, true, bytes);
  }
  if (blockIdx.x != 0) return;
  if (has_outliers)
    list_columns(in, marks);
  else if (threadIdx.x == 0)
    in.count[0] = 0;
}

// ---- dequantize: a thread to each run of eight; rows as they come, or by `ids` ----

__global__ void __launch_bounds__(kThreads) dequantize_kernel(Weight weight, const std::int64_t* ids, std::int64_t first,
                                                              std::int64_t count, Dtype dtype, void* out, bool is_wide) {
  const std::int64_t c = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kRun;
  if (c >= weight.cols) return;
  const int size = run_count(c, weight.cols);
  for (std::int64_t i = blockIdx.y; i < count; i += gridDim.y) {
    const std::int64_t row = ids == nullptr ? first + i : ids[i];
    float values[kRun];
    if (row < 0 || row >= weight.rows) {
      for (float& value : values) value = __uint_as_float(0x7fc00000u);
    } else {
      const std::int8_t* from = weight.codes + row * weight.cols + c;
      const float scale = __fmul_rn(weight.scales[row], kUnit);
      std::int8_t codes[kRun] = {};
      if (is_wide) {
        const uint2 words = *reinterpret_cast<const uint2*>(from);
        memcpy(codes, &words, sizeof words);
      } else {
        for (int j = 0; j < size; ++j) codes[j] = from[j];
      }
#pragma unroll
      for (int j = 0; j < kRun; ++j) values[j] = __fmul_rn(static_cast<float>(codes[j]), scale);
    }
    store_run(out, dtype, i * weight.cols + c, size, is_wide, values);
  }
}

// ---- launching ----

void dequantize_some(const Weight& weight, const std::int64_t* ids, std::int64_t first, std::int64_t count, Dtype dtype, void* out,
                     Place place) {
  const bool is_wide = weight.cols % kRun == 0 && is_aligned(weight.codes) && is_aligned(out);
  launch(dequantize_kernel, dim3(blocks_for(weight.cols, kThreads * kRun), at_most(count, kMostBlocksY)), place, weight, ids, first, count,
         dtype, out, is_wide);
}

}  // namespace

bool is_built() { return true; }

void quantize_rows(const void* weight, Dtype dtype, std::int64_t rows, std::int64_t cols, std::int8_t* codes, float* scales, Place place) {
  const bool is_wide = cols % kRun == 0 && is_aligned(weight) && reinterpret_cast<std::uintptr_t>(codes) % 8 == 0;
  launch(quantize_rows_kernel, dim3(blocks_for(rows, 1)), place, weight, dtype, cols, codes, scales, is_wide);
}

void quantize_activation(const Input& in, Place place) {
  const bool is_wide = in.cols % kRun == 0 && is_aligned(in.x);
  const bool finds = in.rows <= kSmallRows && mark_words(in.cols) <= kMarkWords;
  if (!finds && in.threshold > 0 && in.rows > 0) {
    const OnDevice guard(place.device);
    check(cudaMemsetAsync(in.marks, 0, static_cast<std::size_t>(mark_words(in.cols)) * 4, static_cast<cudaStream_t>(place.stream)));
    launch(mark_kernel, dim3(blocks_for(in.cols, kThreads * kRun), at_most((in.rows + kMarkedRows - 1) / kMarkedRows, 1024)), place, in,
           is_wide);
  }
  launch(quantize_activation_kernel, dim3(blocks_for(in.rows, 1)), place, in, finds, is_wide);
}

void dequantize(const Weight& weight, std::int64_t row_begin, std::int64_t row_end, Dtype dtype, void* out, Place place) {
  dequantize_some(weight, nullptr, row_begin, row_end - row_begin, dtype, out, place);
}
void gather_rows(const Weight& weight, const std::int64_t* ids, std::int64_t count, Dtype dtype, void* out, Place place) {
  dequantize_some(weight, ids, 0, count, dtype, out, place);
}

}  // namespace tenon::int8::cuda
