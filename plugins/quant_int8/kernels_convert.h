#pragma once
// float32 from and to the two halves, bit for bit as the processor's own instructions. Internal linkage: see kernels_body.h.
#include <bit>
#include <cstdint>

#define TENON_INT8_INLINE [[maybe_unused]] inline __attribute__((always_inline))

namespace tenon::int8 {
namespace {

TENON_INT8_INLINE float from_bf16(std::uint16_t h) { return std::bit_cast<float>(static_cast<std::uint32_t>(h) << 16); }
TENON_INT8_INLINE std::uint16_t to_bf16(float f) {  // nearest even; every NaN becomes 0x7fc0, as in c10
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(f);
  const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return static_cast<std::uint16_t>(f != f ? 0x7fc0u : rounded);
}
TENON_INT8_INLINE float from_f16(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000) << 16, rest = static_cast<std::uint32_t>(h & 0x7fff) << 13;
  // Read as a float the exponent is 112 too small; the product is exact, also for subnormals. Infinities and NaN keep the largest exponent.
  const std::uint32_t small = std::bit_cast<std::uint32_t>(std::bit_cast<float>(rest) * 0x1p112f);
  return std::bit_cast<float>((rest >= 0x0f800000u ? rest | 0x7f800000u : small) | sign);
}
TENON_INT8_INLINE std::uint16_t to_f16(float f) {  // nearest even, as vcvtps2ph
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(f), sign = (bits >> 16) & 0x8000u, rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u | ((rest >> 13) & 0x3ffu));
  if (rest >= 0x47800000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // 65536 and above
  if (rest < 0x38800000u) {  // subnormal half: adding 0.5 puts its last bit at the float's last bit and rounds there
    const float shifted = std::bit_cast<float>(rest) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
  }
  return static_cast<std::uint16_t>(sign | ((rest - 0x38000000u + 0xfffu + ((rest >> 13) & 1)) >> 13));
}

}  // namespace
}  // namespace tenon::int8
