#include "four_bits_impl.h"
#include "moments_impl.h"

namespace tenon::gptq::detail {
namespace {

struct Avx2 {
  using X = float;
  using Codes = __m256i;
  using Table = __m256i;
  using Floats = __m256;
  static constexpr std::int64_t kGroup = 64, kPanel = 2048;
  static constexpr int kSteps = 8, kRows = 2, kMost = 2;
  static constexpr bool kTakesZero = false;

  static float number(float x) { return x; }
  TENON_GPTQ_INLINE Codes load(const std::uint32_t* from, std::int64_t codes) {
    if (codes >= kGroup) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    alignas(32) std::uint32_t rest[8] = {};
    std::memcpy(rest, from, static_cast<std::size_t>(codes) / 2);
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(rest));
  }
  TENON_GPTQ_INLINE Table table(int) { return _mm256_set1_epi32(15); }
  TENON_GPTQ_INLINE Floats value(Codes codes, int j, Table nibble) {
    return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(codes, 4 * j), nibble));
  }
  TENON_GPTQ_INLINE Floats add(Floats sum, Floats value, const float* x) { return _mm256_fmadd_ps(value, _mm256_load_ps(x), sum); }
  TENON_GPTQ_INLINE Floats floats(const float* from) { return _mm256_load_ps(from); }
  TENON_GPTQ_INLINE Floats all(float value) { return _mm256_set1_ps(value); }
  TENON_GPTQ_INLINE Floats plus(Floats sum, Floats a, Floats b) { return _mm256_fmadd_ps(a, b, sum); }
  TENON_GPTQ_INLINE Floats less(Floats sum, Floats a, Floats b) { return _mm256_fnmadd_ps(a, b, sum); }
  TENON_GPTQ_INLINE float lane_sum(Floats v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
};

void multiply_avx2(const Weight& w, const float* x, std::int64_t m, std::int64_t begin, std::int64_t end, float* y) {
  if (w.bits != 4 || w.group % 8 != 0) return multiply(w, x, m, begin, end, y);
  FourBits<Avx2>::multiply(w, x, m, begin, end, y);
}

}  // namespace

const Kernels& avx2_kernels() {
  static constexpr Kernels table{"avx2", dequantize, multiply_avx2, nullptr, range, quantize_tile, moments_f32, nullptr};
  return table;
}
}  // namespace tenon::gptq::detail
