// The kernels for processors with bfloat16 products, on those without: the one instruction in question is put together from others.
#include <immintrin.h>

namespace {
__attribute__((target("avx512f"))) inline __m512 emulated_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
  const __m512i x = (__m512i)a, y = (__m512i)b, high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  const auto low_half = [](__m512i v) __attribute__((target("avx512f"))) { return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)); };
  const __m512 odd = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(x, high)), _mm512_castsi512_ps(_mm512_and_si512(y, high)), sum);
  return _mm512_fmadd_ps(low_half(x), low_half(y), odd);
}
}  // namespace

#define _mm512_dpbf16_ps emulated_dpbf16_ps
#define avx512bf16_kernels emulated_bf16_kernels
#include "kernels_avx512bf16.cpp"
