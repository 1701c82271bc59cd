// The kernels of 4-bit blockwise weights in bitsandbytes' layout, as plain functions over pointers.
//
// Called by the plugin's wrapper, which owns every buffer and all threading: a call works on a range of blocks or rows,
// and no result depends on how a tensor was cut into ranges. Functions of one table may run at once on any threads.
// Only `kernels()` and `available_kernels()` throw; shapes, alignment and sizes are the caller's promise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tenon::nf4 {

enum class Codebook : std::int32_t { Nf4, Fp4 };
enum class Dtype : std::int32_t { F32, Bf16, F16 };

inline constexpr int kCodes = 16;
inline constexpr int kNestedCodes = 256;
inline constexpr std::int32_t kNestedBlock = 256;  // absmax values that share one nested absmax
inline constexpr std::size_t kActivationAlignment = 64;

// Block sizes that the file format knows: the powers of two from 32 to 4096.
constexpr bool is_block_size(std::int64_t block) { return block >= 32 && block <= 4096 && (block & (block - 1)) == 0; }
constexpr std::int64_t block_count(std::int64_t elements, std::int64_t block) { return (elements + block - 1) / block; }
constexpr std::int64_t code_bytes(std::int64_t elements) { return (elements + 1) / 2; }

// The 16 values behind the codes 0..15, and the 256 of the signed 8-bit dynamic map that nested absmax values use.
std::span<const float, kCodes> code_values(Codebook codebook);
std::span<const float, kNestedCodes> nested_code_values();

// One quantized weight. Blocks run over the flattened tensor, so that a row may begin inside a block.
struct Weight {
  const std::uint8_t* codes;         // code_bytes(rows * cols); the even element is in the high nibble
  const float* absmax;               // one per block; null when nested
  const std::uint8_t* absmax_codes;  // nested: one per block
  const float* nested_absmax;        // nested: one per kNestedBlock absmax values
  float nested_offset;               // nested: absmax = value * nested_absmax + nested_offset
  Codebook codebook;
  std::int32_t block;
  std::int64_t rows, cols;
  const float* nested_offset_at = nullptr;  // on CUDA: where the offset is instead, so that nobody waits for it
};

// Double quantization of absmax values. `mean_absmax` adds in the order of torch.mean on one thread, whatever the caller's
// thread count: that order is part of bitsandbytes' stored offset.
float mean_absmax(const float* absmax, std::int64_t count);
// A range must begin at a multiple of kNestedBlock.
void quantize_absmax(const float* absmax, std::int64_t count, float offset, std::uint8_t* codes, float* nested_absmax);
void dequantize_absmax(const std::uint8_t* codes, const float* nested_absmax, float offset, std::int64_t count, float* absmax);

// One way to compute all of it, for one kind of processor. Quantized and dequantized bits are equal in all tables.
struct Kernels {
  const char* name;  // portable | avx2 | avx512 | avx512bf16

  // Quantizes `count` elements that begin at a block border. A last block that is not full is the end of the tensor:
  // bitsandbytes scales it by division instead of a reciprocal, and fills an odd last byte with the code of zero.
  void (*quantize)(const void* source, Dtype dtype, std::int64_t count, Codebook codebook, std::int32_t block, std::uint8_t* codes,
                   float* absmax);

  // Elements [begin, begin + count) of the flattened weight: code value times absmax, rounded to float32, then to `dtype`.
  void (*dequantize)(const Weight& weight, std::int64_t begin, std::int64_t count, Dtype dtype, void* out);

  // y[m, n] = sum over k of x[m, k] * weight[n, k], in two steps. Packing rearranges x once; weights of equal cols and block
  // (q, k, v) may share one packed x, and so may all threads. `packed` is aligned to kActivationAlignment.
  std::size_t (*activation_bytes)(const Weight& weight, Dtype x_dtype, std::int64_t m);
  void (*pack_activation)(const Weight& weight, const void* x, Dtype x_dtype, std::int64_t m, std::int64_t x_stride, void* packed);
  // Writes y[:, row_begin .. row_end). Strides count elements. Accumulates in float32; float32 and float16 x are
  // multiplied as float32, bfloat16 x may meet codes rounded to bfloat16 (avx512bf16).
  void (*multiply)(const Weight& weight, const void* packed, Dtype x_dtype, std::int64_t m, std::int64_t row_begin, std::int64_t row_end,
                   void* y, Dtype y_dtype, std::int64_t y_stride);
};

// What this machine can run, slowest first; never empty.
std::span<const Kernels* const> available_kernels();

// The fastest of them, or the one that the environment variable TENON_CPU names. Throws std::runtime_error if it names one
// that this machine or this build lacks; read once, at the first call.
const Kernels& kernels();

}  // namespace tenon::nf4
