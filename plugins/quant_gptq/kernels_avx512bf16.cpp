#include <bit>

#include "four_bits_avx512.h"
#include "moments_impl.h"

namespace tenon::gptq::detail {
namespace {

// A code less its zero, for each zero of four bits and the one more that the first format can have; twice, because a permutation of words looks at
// five bits of an index. bfloat16 holds them exactly.
struct Values {
  alignas(64) std::uint16_t of[17][32];
};
constexpr Values kValues = [] {
  Values values{};
  for (int zero = 0; zero < 17; ++zero)
    for (int i = 0; i < 32; ++i)
      values.of[zero][i] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(static_cast<float>(i % 16 - zero)) >> 16);
  return values;
}();

// One permutation turns thirty-two codes into values; products of two and two, and sums, are float32.
struct Avx512Bf16 : Avx512Floats {
  using X = std::uint16_t;
  using Table = __m512i;
  static constexpr std::int64_t kPanel = 4096;
  static constexpr int kSteps = 4, kRows = 4, kMost = 4;

  static float number(std::uint16_t x) { return std::bit_cast<float>(std::uint32_t{x} << 16); }
  TENON_GPTQ_INLINE Table table(int zero) { return _mm512_load_si512(kValues.of[zero]); }
  TENON_GPTQ_INLINE __m512bh value(Codes codes, int j, Table table) {
    return (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(codes, static_cast<unsigned>(4 * j)), table);
  }
  TENON_GPTQ_INLINE Floats add(Floats sum, __m512bh value, const std::uint16_t* x) {
    return _mm512_dpbf16_ps(sum, value, (__m512bh)_mm512_load_si512(x));
  }
};

}  // namespace

const Kernels& avx512bf16_kernels() {
  static constexpr Kernels table{"avx512bf16", dequantize,    multiply_avx512, FourBits<Avx512Bf16>::multiply,
                                 range,        quantize_tile, moments_f32,     moments_bf16};
  return table;
}
}  // namespace tenon::gptq::detail
