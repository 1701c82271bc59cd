#include "four_bits_avx512.h"
#include "moments_impl.h"

namespace tenon::gptq::detail {
namespace {

// A permutation looks at four bits of each index: it turns sixteen codes into values.
struct Avx512 : Avx512Floats {
  using X = float;
  using Table = __m512;
  static constexpr std::int64_t kPanel = 2048;
  static constexpr int kSteps = 8, kRows = 2, kMost = 4;

  static float number(float x) { return x; }
  TENON_GPTQ_INLINE Table table(int zero) {
    return _mm512_sub_ps(_mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), all(static_cast<float>(zero)));
  }
  TENON_GPTQ_INLINE Floats value(Codes codes, int j, Table table) {
    return _mm512_permutexvar_ps(_mm512_srli_epi32(codes, static_cast<unsigned>(4 * j)), table);
  }
  TENON_GPTQ_INLINE Floats add(Floats sum, Floats value, const float* x) { return _mm512_fmadd_ps(value, floats(x), sum); }
};

}  // namespace

void multiply_avx512(const Weight& w, const float* x, std::int64_t m, std::int64_t begin, std::int64_t end, float* y) {
  if (w.bits != 4 || w.group % 8 != 0) return multiply(w, x, m, begin, end, y);
  FourBits<Avx512>::multiply(w, x, m, begin, end, y);
}

const Kernels& avx512_kernels() {
  static constexpr Kernels table{"avx512", dequantize, multiply_avx512, nullptr, range, quantize_tile, moments_f32, nullptr};
  return table;
}
}  // namespace tenon::gptq::detail
