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

// Gradients [rows, weight rows], scaled by the weight's rows: 16 bits in two rows of codes, 256 times the first and the second.
inline constexpr float kGradientStep = 127 * 256;
struct Gradient {
  const std::int8_t* codes;  // [2 * rows, stride], zeros behind the last
  const float* scales;       // [rows]: what a unit of sums is worth
  const std::int32_t* sums;  // of each row's codes: [2 * rows]
  std::int64_t rows, stride;
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
  // Writes y[:, row_begin .. row_end). Strides count elements. With scratch, packed_bytes(cols) of it, the weight is packed first: worth it from
  // packed_rows rows of x on, with the same result. Null: not.
  void (*multiply)(const Weight& weight, const Activation& x, std::int64_t row_begin, std::int64_t row_end, std::uint8_t* scratch, void* y,
                   Dtype y_dtype, std::int64_t y_stride);
  // The int32 accumulators alone: out[m, n - row_begin], `out_stride` elements a row. What the product is made from, for tests.
  void (*accumulate)(const Weight& weight, const Activation& x, std::int64_t row_begin, std::int64_t row_end, std::uint8_t* scratch,
                     std::int32_t* out, std::int64_t out_stride);

  // Rows [row_begin, row_end): codes * (scale / 127), rounded to `dtype`.
  void (*dequantize)(const Weight& weight, std::int64_t row_begin, std::int64_t row_end, Dtype dtype, void* out);

  // What only fast byte products make worth while; null, and 0, where they are not.
  std::int64_t packed_rows = 0;
  std::int64_t (*packed_bytes)(std::int64_t depth) = nullptr;
  // Rows [row_begin, row_end) of a Gradient of dy [.., cols], cols being the weight's rows. A row that holds what is no finite number gets codes
  // of zero and a scale that makes every product of it NaN.
  void (*quantize_gradient)(const void* dy, Dtype dtype, const float* weight_scales, std::int64_t row_begin, std::int64_t row_end,
                            std::int64_t cols, std::int8_t* codes, float* scales, std::int32_t* sums) = nullptr;
  // dx = dy . w, with w exactly codes * (scale / 127) and dy rounded to 16 bits beside the largest of its row: at most `kGradientRows` rows of
  // the weight. Writes dx[:, col_begin .. col_end); scratch: packed_bytes(weight.rows).
  void (*multiply_transposed)(const Weight& weight, const Gradient& dy, std::int64_t col_begin, std::int64_t col_end, std::uint8_t* scratch,
                              void* dx, Dtype dx_dtype, std::int64_t dx_stride) = nullptr;
};
inline constexpr std::int64_t kGradientRows = 131'072;  // 128 * 127 times as many fit into int32

// What this machine can run, slowest first; never empty.
std::span<const Kernels* const> available_kernels();

// The fastest of them, or, where the environment variable TENON_CPU names a level, the fastest up to that level. Throws std::runtime_error if it
// names none; read once, at the first call.
const Kernels& kernels();

}  // namespace tenon::int8
