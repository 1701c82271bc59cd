// The kernels of GPTQ weights, as plain functions over pointers. The caller owns every buffer and all threading: a call works on a range of
// rows, and no result depends on how rows were cut into ranges.
#pragma once

#include <cstdint>
#include <span>

namespace tenon::gptq {

inline constexpr int kTileRows = 16;       // rows of a weight that are quantized together, one a lane
inline constexpr int kBlockColumns = 128;  // columns between two updates of everything behind them
inline constexpr int kFusedRows = 16;      // rows of activations that multiply straight from the codes

inline constexpr int kPanelColumns = 48;  // columns of activations that lie together for their second moments

enum class Dtype : std::int32_t { F32, Bf16, F16 };

// One weight [rows, cols] in memory. Codes are a stream of bits along a row, lowest first; cols is a multiple of 32.
struct Weight {
  const std::uint32_t* codes;   // [rows, cols * bits / 32]
  const std::uint16_t* scales;  // float16 [rows, groups]
  const std::uint8_t* zeros;    // [rows, groups]
  const std::int32_t* order;    // [cols]: the weight's column at each place of a row; null: as they come
  int bits;
  std::int64_t group;  // columns that share a scale, in the order of the codes; a multiple of 16
  std::int64_t rows, cols;
  std::int64_t groups() const { return (cols + group - 1) / group; }
  std::int64_t words() const { return cols * bits / 32; }
};

// Columns [0, count) of kTileRows rows on their way to codes.
struct Tile {
  const float* weight;  // [kTileRows, ...], row i at weight + i * stride
  std::int64_t stride;
  int count;
  const float* factor;  // upper factor of the inverse Hessian, its diagonal block; null: plain rounding
  std::int64_t factor_stride;
  const int* group;     // [count]: which of the scales below
  const float* scales;  // [groups, kTileRows]
  const float* zeros;
  float max_code;
  std::uint8_t* codes;  // [kTileRows, ...], like weight
  std::int64_t codes_stride;
  float* errors;  // [kTileRows, errors_stride]: (w - its rounding) / diagonal; unused without a factor
  std::int64_t errors_stride;
};

// Two panels of activations, [steps, kPanelColumns] each: a float a token, or two tokens' bfloat16 values side by side.
struct Moments {
  const void* left;
  const void* right;
  std::int64_t steps;
  float* sum;  // [rows, columns] at a stride: grows by left^T right
  std::int64_t stride, rows, columns;
};

struct Kernels {
  const char* name;  // portable | avx2 | avx512 | avx512bf16

  // Rows [begin, end) of the dense weight, in its own column order. scratch: cols floats.
  void (*dequantize)(const Weight& weight, std::int64_t begin, std::int64_t end, Dtype dtype, void* out, float* scratch);
  // y[i, r] = sum over k of x[i, k] * weight[r, k] for i < m <= kFusedRows and r in [begin, end). x: [m, cols] in the order of the codes; y: [m, rows].
  void (*multiply)(const Weight& weight, const float* x, std::int64_t m, std::int64_t begin, std::int64_t end, float* y);
  // The same for x in bfloat16, where bits is 4 and group a multiple of 8; null: the processor has no such products.
  void (*multiply_bf16)(const Weight& weight, const std::uint16_t* x, std::int64_t m, std::int64_t begin, std::int64_t end, float* y);
  // The smallest and the largest value.
  void (*range)(const float* values, std::int64_t count, float& low, float& high);
  void (*quantize_tile)(const Tile& tile);
  void (*moments_f32)(const Moments& panels);
  void (*moments_bf16)(const Moments& panels);  // null: the processor has no such products
};

// What this machine can run, slowest first; never empty.
std::span<const Kernels* const> available_kernels();
// The fastest of them, or the one that the environment variable TENON_CPU names, or the fastest below it. Read once.
const Kernels& kernels();

namespace detail {
// Four bits without taking codes apart one by one; other widths the usual way.
void multiply_avx512(const Weight& weight, const float* x, std::int64_t m, std::int64_t begin, std::int64_t end, float* y);
const Kernels& portable_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& avx512bf16_kernels();
}  // namespace detail

}  // namespace tenon::gptq
