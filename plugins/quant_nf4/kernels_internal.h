// What the kernel files share. Everything defined here has internal linkage on purpose: each file is compiled for another
// instruction set, and the linker must never pick one file's copy of an inline function for all of them. For the same
// reason these files keep out of std:: algorithms.
#pragma once

#include <bit>
#include <cstdint>

#include "codebooks.h"
#include "kernels.h"

namespace tenon::nf4::detail {

const Kernels& portable_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& avx512bf16_kernels();

// The general multiply, for rows that begin inside a block: x is packed as plain float32, rows are dequantized piece by piece.
using Dot = float (*)(const float* a, const float* b, std::int64_t count);
std::size_t plain_activation_bytes(std::int64_t cols, std::int64_t m);
void pack_plain_activation(const void* x, Dtype dtype, std::int64_t m, std::int64_t cols, std::int64_t stride, float* packed);
void multiply_plain(const Weight& weight, decltype(Kernels::dequantize) dequantize, Dot dot, const float* x, std::int64_t m,
                    std::int64_t row_begin, std::int64_t row_end, void* y, Dtype y_dtype, std::int64_t y_stride);

// bitsandbytes divides by at least this, so that an all-zero block has a scale.
inline constexpr float kLeastAbsmax = 1e-38f;
inline constexpr std::uint32_t kInfinityBits = 0x7f800000u;
inline constexpr std::uint32_t kQuietNanBits = 0x7fc00000u;

namespace {

[[maybe_unused]] inline bool rows_begin_blocks(const Weight& weight) { return weight.cols % weight.block == 0; }
[[maybe_unused]] inline int log2_of(std::int32_t block) { return std::countr_zero(static_cast<std::uint32_t>(block)); }

[[maybe_unused]] inline float from_bf16(std::uint16_t h) { return std::bit_cast<float>(static_cast<std::uint32_t>(h) << 16); }

[[maybe_unused]] inline std::uint16_t to_bf16(float f) {  // nearest even; every NaN becomes 0x7fc0, as in c10
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(f);
  if (f != f) return 0x7fc0;
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

[[maybe_unused]] inline float from_f16(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000) << 16;
  const std::uint32_t rest = static_cast<std::uint32_t>(h & 0x7fff) << 13;
  if (rest >= 0x0f800000u) {  // infinity, or a NaN made quiet
    const std::uint32_t quiet = (rest & 0x007fffffu) != 0 ? 0x00400000u : 0u;
    return std::bit_cast<float>(sign | kInfinityBits | quiet | (rest & 0x007fffffu));
  }
  // Read as a float the exponent is 112 too small; the product is exact, also for subnormals.
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(std::bit_cast<float>(rest) * 0x1p112f) | sign);
}

[[maybe_unused]] inline std::uint16_t to_f16(float f) {  // nearest even, as vcvtps2ph
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(f);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t rest = bits & 0x7fffffffu;
  if (rest > kInfinityBits) return static_cast<std::uint16_t>(sign | 0x7e00u | ((rest >> 13) & 0x3ffu));
  if (rest >= 0x47800000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // 65536 and above
  if (rest < 0x38800000u) {  // subnormal half: adding 0.5 puts its last bit at the float's last bit and rounds there
    const float shifted = std::bit_cast<float>(rest) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
  }
  return static_cast<std::uint16_t>(sign | ((rest - 0x38000000u + 0xfffu + ((rest >> 13) & 1)) >> 13));
}

[[maybe_unused]] inline float load_element(const void* data, Dtype dtype, std::int64_t i) {
  switch (dtype) {
    case Dtype::F32: return static_cast<const float*>(data)[i];
    case Dtype::Bf16: return from_bf16(static_cast<const std::uint16_t*>(data)[i]);
    case Dtype::F16: return from_f16(static_cast<const std::uint16_t*>(data)[i]);
  }
  return 0;
}

[[maybe_unused]] inline void store_element(void* data, Dtype dtype, std::int64_t i, float value) {
  switch (dtype) {
    case Dtype::F32: static_cast<float*>(data)[i] = value; return;
    case Dtype::Bf16: static_cast<std::uint16_t*>(data)[i] = to_bf16(value); return;
    case Dtype::F16: static_cast<std::uint16_t*>(data)[i] = to_f16(value); return;
  }
}

[[maybe_unused]] inline float block_absmax(const Weight& weight, std::int64_t block) {
  if (weight.absmax != nullptr) return weight.absmax[block];
  const float scaled = kDynamicMap[weight.absmax_codes[block]] * weight.nested_absmax[block / kNestedBlock];
  return scaled + weight.nested_offset;
}

[[maybe_unused]] inline int code_at(const std::uint8_t* codes, std::int64_t i) {
  return (i & 1) != 0 ? codes[i >> 1] & 15 : codes[i >> 1] >> 4;
}

}  // namespace
}  // namespace tenon::nf4::detail
