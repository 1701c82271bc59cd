// The kernels of LLM.int8() (arXiv:2208.07339) in bitsandbytes' row-wise layout, as plain functions over pointers.
//
// Called by the plugin's wrapper, which owns every buffer and all threading: a call works on a range of rows, and no result depends on how a
// tensor was cut into ranges. Functions of one table may run at once on any threads. Only `kernels()` throws; shapes, alignment and sizes are the
// caller's promise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tenon::int8 {

enum class Dtype : std::int32_t { F32, Bf16, F16 };

// A weight [rows, cols]: w is codes * (scale of the row / 127).
struct Weight {
  const std::int8_t* codes;
  const float* scales;  // the row's largest magnitude
  std::int64_t rows, cols;
};

// Rows of activations. Rows of codes are `stride` bytes apart, a multiple of kRowAlignment, with zeros behind the last column.
inline constexpr std::int64_t kRowAlignment = 64;
constexpr std::int64_t row_stride(std::int64_t cols) { return (cols + kRowAlignment - 1) / kRowAlignment * kRowAlignment; }
struct Activation {
  const std::int8_t* codes;
  const float* scales;       // largest magnitude of each row, outliers left out
  const std::int32_t* sums;  // of each row's codes
  std::int64_t rows, stride;
  const std::int64_t* outlier_columns;  // ascending; their codes are zero in every row
  std::int64_t outliers;
  const float* outlier_values;   // [rows, outliers]: multiplied here, unless
  const float* outlier_product;  // [rows, weight rows] holds what they give
};

struct Kernels {
  const char* name;  // portable | avx2 | avxvnni | avx512vnni

  // Rows [row_begin, row_end) of a weight, element by element rounded to float16 first, as bitsandbytes does: scale = largest magnitude,
  // code = round(h * (1 / scale * 127)), to the even one in the middle. A row of zeros has scale 0 and codes 0.
  void (*quantize_rows)(const void* weight, Dtype dtype, std::int64_t row_begin, std::int64_t row_end, std::int64_t cols,
                        std::int8_t* codes, float* scales);

  // Marks in `is_outlier` (cols bytes, set by the caller) each column that holds a magnitude of at least `threshold` in these rows.
  void (*find_outliers)(const void* x, Dtype dtype, std::int64_t row_begin, std::int64_t row_end, std::int64_t cols, float threshold,
                        std::uint8_t* is_outlier);
  // Rows of x: values at or above the threshold count as zero, the others make scale and codes; then outlier columns are zeroed.
  // A threshold of 0 means none.
  void (*quantize_activation)(const void* x, Dtype dtype, std::int64_t row_begin, std::int64_t row_end, std::int64_t cols, float threshold,
                              const std::int64_t* outlier_columns, std::int64_t outliers, std::int8_t* codes, float* scales,
                              std::int32_t* sums);

  // Columns of rows [row_begin, row_end) of a weight as float32: out[row, i], the row counted from 0, i over the columns.
  void (*gather)(const Weight& weight, std::int64_t row_begin, std::int64_t row_end, const std::int64_t* columns, std::int64_t count,
                 float* out);

  // y[m, n] = accumulator * (x scale * w scale / 127^2) + sum over the outlier columns of x * w, rounded once to y's dtype.
  // Writes y[:, row_begin .. row_end). Strides count elements.
  void (*multiply)(const Weight& weight, const Activation& x, std::int64_t row_begin, std::int64_t row_end, void* y, Dtype y_dtype,
                   std::int64_t y_stride);
  // The int32 accumulators alone: out[m, n - row_begin], `out_stride` elements a row. What the product is made from, for tests.
  void (*accumulate)(const Weight& weight, const Activation& x, std::int64_t row_begin, std::int64_t row_end, std::int32_t* out,
                     std::int64_t out_stride);

  // Rows [row_begin, row_end): codes * (scale / 127), rounded to `dtype`.
  void (*dequantize)(const Weight& weight, std::int64_t row_begin, std::int64_t row_end, Dtype dtype, void* out);
};

// What this machine can run, slowest first; never empty.
std::span<const Kernels* const> available_kernels();

// The fastest of them, or, where the environment variable TENON_CPU names a level, the fastest up to that level. Throws std::runtime_error if it
// names none; read once, at the first call.
const Kernels& kernels();

}  // namespace tenon::int8
