// AVX-512 VNNI: 64 products an instruction.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#include "kernels_convert.h"

namespace tenon::int8 {
namespace {

struct Isa {
  static constexpr const char* kName = "avx512vnni";
  static constexpr std::int64_t kBytes = 64;
  static constexpr bool kShifted = true;
  using Codes = __m512i;
  using Sum = __m512i;

  static Codes weight(const std::int8_t* codes) { return _mm512_xor_si512(_mm512_loadu_si512(codes), _mm512_set1_epi8(-128)); }
  static Codes activation(const std::int8_t* codes) { return _mm512_load_si512(codes); }
  static void add(Sum& sum, const Codes& weight, const Codes& activation) { sum = _mm512_dpbusd_epi32(sum, weight, activation); }
  static std::int32_t total(const Sum& sum) { return _mm512_reduce_add_epi32(sum); }
  static void round_to_half(float* values, std::int64_t count) {
    std::int64_t i = 0;
    for (; i + 16 <= count; i += 16)
      _mm512_storeu_ps(values + i, _mm512_cvtph_ps(_mm512_cvtps_ph(_mm512_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT)));
    for (; i < count; ++i) values[i] = from_f16(to_f16(values[i]));
  }

  static constexpr std::int64_t kPackedRows = 12, kTileRows = 12;
  static Codes packed(const std::uint8_t* codes) { return _mm512_load_si512(codes); }
  static Codes broadcast(const std::int8_t* codes) {
    std::int32_t four;
    std::memcpy(&four, codes, sizeof four);
    return _mm512_set1_epi32(four);
  }
  static void store(std::int32_t* to, const Sum& sum) { _mm512_storeu_si512(to, sum); }
};

}  // namespace
}  // namespace tenon::int8

#define TENON_INT8_PACKS
#include "kernels_body.h"

namespace tenon::int8::detail {
const Kernels& avx512vnni_kernels() { return kTable; }
}  // namespace tenon::int8::detail
#endif
