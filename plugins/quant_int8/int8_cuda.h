// The kernels on CUDA: the same layouts and, where kernels.h promises bits, the same bits; every pointer is on the device.
//
// Each call queues work on a stream and returns: nothing is allocated, nothing waits, and no launch depends on what the data holds, so that the calls
// can be captured into a CUDA graph. Which columns hold outliers, and how many there are, stays on the device. A failed launch throws
// std::runtime_error.
#pragma once

#include "kernels.h"

namespace tenon::int8::cuda {

// False: every other function throws std::runtime_error("built without CUDA").
bool is_built();

struct Place {
  int device;
  void* stream;  // a cudaStream_t of it
};

// As Kernels::quantize_rows, of all rows.
void quantize_rows(const void* weight, Dtype dtype, std::int64_t rows, std::int64_t cols, std::int8_t* codes, float* scales, Place place);

inline constexpr std::int64_t kSmallRows = 16;  // so many rows of x multiply at the speed at which a weight is read

// Rows of activations and what quantize_activation makes of them; the caller owns the memory.
struct Input {
  const void* x;  // [rows, cols]
  Dtype dtype;
  std::int64_t rows, cols, stride;  // stride: row_stride(cols)
  float threshold;                  // 0: no outliers
  std::int8_t* codes;               // [rows, stride], on a multiple of 16
  float* scales;                    // [rows]
  std::uint32_t* marks;             // [mark_words(cols)]: one bit a column
  std::int32_t* columns;            // [cols]: the outlier columns, ascending, `count[0]` of them
  std::int32_t* count;              // [1]
};
constexpr std::int64_t mark_words(std::int64_t cols) { return (cols + 31) / 32; }

// As find_outliers and quantize_activation of kernels.h. (No sums of codes: nothing is shifted here.)
void quantize_activation(const Input& input, Place place);

// As Kernels::multiply: y [rows, weight rows], contiguous.
void multiply(const Weight& weight, const Input& input, void* y, Dtype y_dtype, Place place);
// As Kernels::accumulate: sums [rows, weight rows].
void accumulate(const Weight& weight, const Input& input, std::int32_t* sums, Place place);

// As Kernels::dequantize.
void dequantize(const Weight& weight, std::int64_t row_begin, std::int64_t row_end, Dtype dtype, void* out, Place place);
// Rows by their numbers, as an embedding wants them; NaN where there is no such row.
void gather_rows(const Weight& weight, const std::int64_t* ids, std::int64_t count, Dtype dtype, void* out, Place place);

}  // namespace tenon::int8::cuda
