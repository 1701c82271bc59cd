// AVX-VNNI: the 256-bit dot product of processors without AVX-512.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#include "kernels_convert.h"

namespace tenon::int8 {
namespace {

struct Isa {
  static constexpr const char* kName = "avxvnni";
  static constexpr std::int64_t kBytes = 32;
  static constexpr bool kShifted = true;
  using Codes = __m256i;
  using Sum = __m256i;

  static Codes weight(const std::int8_t* codes) {
    return _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)), _mm256_set1_epi8(-128));
  }
  static Codes activation(const std::int8_t* codes) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(codes)); }
  static void add(Sum& sum, const Codes& weight, const Codes& activation) { sum = _mm256_dpbusd_avx_epi32(sum, weight, activation); }
  static std::int32_t total(const Sum& sum) {
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
  }
  static void round_to_half(float* values, std::int64_t count) {
    std::int64_t i = 0;
    for (; i + 8 <= count; i += 8)
      _mm256_storeu_ps(values + i, _mm256_cvtph_ps(_mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT)));
    for (; i < count; ++i) values[i] = from_f16(to_f16(values[i]));
  }

  static constexpr std::int64_t kPackedRows = 32, kTileRows = 6;
  static Codes packed(const std::uint8_t* codes) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(codes)); }
  static Codes broadcast(const std::int8_t* codes) {
    std::int32_t four;
    std::memcpy(&four, codes, sizeof four);
    return _mm256_set1_epi32(four);
  }
  static void store(std::int32_t* to, const Sum& sum) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), sum); }
};

}  // namespace
}  // namespace tenon::int8

#define TENON_INT8_PACKS
#include "kernels_body.h"

namespace tenon::int8::detail {
const Kernels& avxvnni_kernels() { return kTable; }
}  // namespace tenon::int8::detail
#endif
