// What the products of processors with AVX-512 share, whatever x is.
#pragma once
#include "four_bits_impl.h"

namespace tenon::gptq::detail {
namespace {

struct Avx512Floats {
  using Codes = __m512i;
  using Floats = __m512;
  static constexpr std::int64_t kGroup = 128;
  static constexpr bool kTakesZero = true;

  TENON_GPTQ_INLINE Codes load(const std::uint32_t* from, std::int64_t codes) {
    return _mm512_maskz_loadu_epi32(static_cast<__mmask16>(codes >= kGroup ? 0xffff : (1u << (codes / 8)) - 1), from);
  }
  TENON_GPTQ_INLINE Floats floats(const float* from) { return _mm512_load_ps(from); }
  TENON_GPTQ_INLINE Floats all(float value) { return _mm512_set1_ps(value); }
  TENON_GPTQ_INLINE Floats plus(Floats sum, Floats a, Floats b) { return _mm512_fmadd_ps(a, b, sum); }
  TENON_GPTQ_INLINE Floats less(Floats sum, Floats a, Floats b) { return _mm512_fnmadd_ps(a, b, sum); }
  TENON_GPTQ_INLINE float lane_sum(Floats v) { return _mm512_reduce_add_ps(v); }
};

}  // namespace
}  // namespace tenon::gptq::detail
