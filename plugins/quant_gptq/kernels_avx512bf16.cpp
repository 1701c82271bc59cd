#include <immintrin.h>

#include <bit>

#include "kernels_impl.h"
#include "moments_impl.h"

// Vectors in arrays stay in registers only where every index is known.
#define TENON_UNROLL _Pragma("GCC unroll 8")

namespace tenon::gptq::detail {
namespace {

// Four bits times bfloat16. 128 codes are 32 words of 16 bits; shifted by 4j, each word's low nibble is element 4 * word + j, and one permutation turns
// thirty-two of them into bfloat16 values, which a code less its zero is exactly. Products and sums are float32.
constexpr std::int64_t kGroup = 128, kPanel = 4096;
constexpr int kZeros = 17;  // of four bits, or one more in the first format

// Codes less each zero; twice, because a permutation of words looks at five bits of an index.
struct Values {
  alignas(64) std::uint16_t of[kZeros][32];
};
constexpr Values kValues = [] {
  Values values{};
  for (int zero = 0; zero < kZeros; ++zero)
    for (int i = 0; i < 32; ++i)
      values.of[zero][i] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(static_cast<float>(i % 16 - zero)) >> 16);
  return values;
}();

struct Packed {
  alignas(64) std::uint16_t x[kFusedRows * kPanel];  // [group][m][j][word], zero behind the last column
  alignas(64) float sums[kFusedRows * kPanel / 8];   // [group][m][dword]: of the 8 columns that a dword of codes stands for
};

void pack(const std::uint16_t* x, std::int64_t stride, std::int64_t m, std::int64_t cols, Packed& to) {
  std::uint16_t* out = to.x;
  float* sums = to.sums;
  for (std::int64_t k = 0; k < cols; k += kGroup)
    for (std::int64_t i = 0; i < m; ++i, out += kGroup, sums += kGroup / 8) {
      const std::uint16_t* from = x + i * stride + k;
      const std::int64_t live = cols - k < kGroup ? cols - k : kGroup;
      for (std::int64_t word = 0; word < 32; ++word)
        for (std::int64_t j = 0; j < 4; ++j) out[32 * j + word] = 4 * word < live ? from[4 * word + j] : std::uint16_t{0};
      for (std::int64_t d = 0; d < 16; ++d) {
        float sum = 0;
        for (std::int64_t c = 8 * d; c < 8 * d + 8 && c < live; ++c) sum += std::bit_cast<float>(std::uint32_t{from[c]} << 16);
        sums[d] = sum;
      }
    }
}

// What is the same for all products with a weight. Divisions are slow enough to be seen: none where rows are multiplied.
struct Layout {
  std::int64_t words, groups;  // of a row
  int shift;                   // columns to groups, where groups are a power of two of at least kGroup columns
};

// Of each lane at column k, which stands for 8 columns: its scale and zero.
TENON_GPTQ_INLINE void lane_factors(const Weight& w, const Layout& at, std::int64_t row, std::int64_t k, __m512& scale, __m512& zero) {
  alignas(64) float s[16], z[16];
  for (std::int64_t d = 0; d < 16; ++d) {
    const std::int64_t g = k + 8 * d < w.cols ? (k + 8 * d) / w.group : 0;
    s[d] = _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(w.scales[row * at.groups + g])));
    z[d] = static_cast<float>(w.zeros[row * at.groups + g]);
  }
  scale = _mm512_load_ps(s);
  zero = _mm512_load_ps(z);
}

// kN rows of the weight with kM of x, columns [first, last): added to y. The order of operations for one y is the same for all kN and kM.
// kShared: 128 columns have one scale and zero; otherwise each lane its own, and its zero is taken from the sum.
template <bool kShared, int kN, int kM>
TENON_GPTQ_INLINE void multiply_tile(const Weight& w, const Layout& at, const Packed& packed, std::int64_t m, std::int64_t i0,
                                     std::int64_t row, std::int64_t first, std::int64_t last, float* y) {
  __m512 total[kN][kM];
  TENON_UNROLL
  for (int n = 0; n < kN; ++n) TENON_UNROLL
  for (int i = 0; i < kM; ++i) total[n][i] = _mm512_setzero_ps();
  const std::uint16_t* x = packed.x + i0 * kGroup;
  const float* x_sums = packed.sums + i0 * (kGroup / 8);
  for (std::int64_t k = first; k < last; k += kGroup, x += m * kGroup, x_sums += m * (kGroup / 8)) {
    const std::int64_t left = last - k;
    const auto live = static_cast<__mmask16>(left >= kGroup ? 0xffff : (1u << (left / 8)) - 1);
    __m512 scale[kN], zero[kN], sum[kN][kM];
    __m512i codes[kN], values[kN];
    TENON_UNROLL
    for (int n = 0; n < kN; ++n) {
      const std::uint32_t* from = w.codes + (row + n) * at.words + k / 8;
      codes[n] = _mm512_maskz_loadu_epi32(live, from);
      // The same place in the next rows: the processor's own prefetching ends where a row does.
      _mm_prefetch(reinterpret_cast<const char*>(from + kN * at.words), _MM_HINT_T1);
      if constexpr (kShared) {
        const std::int64_t g = (row + n) * at.groups + (k >> at.shift);
        scale[n] = _mm512_cvtph_ps(_mm256_set1_epi16(static_cast<short>(w.scales[g])));
        values[n] = _mm512_load_si512(kValues.of[w.zeros[g]]);
      } else {
        lane_factors(w, at, row + n, k, scale[n], zero[n]);
        values[n] = _mm512_load_si512(kValues.of[0]);
      }
      TENON_UNROLL
      for (int i = 0; i < kM; ++i) sum[n][i] = _mm512_setzero_ps();
    }
    TENON_UNROLL
    for (unsigned j = 0; j < 4; ++j) TENON_UNROLL
    for (int n = 0; n < kN; ++n) {
      const auto value = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(codes[n], 4 * j), values[n]);
      TENON_UNROLL
      for (int i = 0; i < kM; ++i) sum[n][i] = _mm512_dpbf16_ps(sum[n][i], value, (__m512bh)_mm512_load_si512(x + i * kGroup + 32 * j));
    }
    TENON_UNROLL
    for (int n = 0; n < kN; ++n) TENON_UNROLL
    for (int i = 0; i < kM; ++i) {
      if constexpr (!kShared) sum[n][i] = _mm512_fnmadd_ps(zero[n], _mm512_load_ps(x_sums + i * (kGroup / 8)), sum[n][i]);
      total[n][i] = _mm512_fmadd_ps(sum[n][i], scale[n], total[n][i]);
    }
  }
  TENON_UNROLL
  for (int n = 0; n < kN; ++n) TENON_UNROLL
  for (int i = 0; i < kM; ++i) {
    float& to = y[(i0 + i) * w.rows + row + n];
    to = (first == 0 ? 0.0f : to) + _mm512_reduce_add_ps(total[n][i]);
  }
}

template <bool kShared, int kN>
TENON_GPTQ_INLINE void multiply_some(const Weight& w, const Layout& at, const Packed& packed, std::int64_t m, std::int64_t row,
                                     std::int64_t first, std::int64_t last, float* y) {
  std::int64_t i = 0;
  for (; i + 4 <= m; i += 4) multiply_tile<kShared, kN, 4>(w, at, packed, m, i, row, first, last, y);
  for (; i + 2 <= m; i += 2) multiply_tile<kShared, kN, 2>(w, at, packed, m, i, row, first, last, y);
  if (i < m) multiply_tile<kShared, kN, 1>(w, at, packed, m, i, row, first, last, y);
}

template <bool kShared>
void multiply_all(const Weight& w, const std::uint16_t* x, std::int64_t m, std::int64_t begin, std::int64_t end, float* y) {
  const Layout at{w.words(), w.groups(), kShared ? __builtin_ctzll(static_cast<unsigned long long>(w.group)) : 0};
  Packed packed;
  for (std::int64_t first = 0; first < w.cols; first += kPanel) {
    const std::int64_t last = first + kPanel < w.cols ? first + kPanel : w.cols;
    pack(x + first, w.cols, m, last - first, packed);
    std::int64_t row = begin;
    for (; row + 4 <= end; row += 4) multiply_some<kShared, 4>(w, at, packed, m, row, first, last, y);
    for (; row < end; ++row) multiply_some<kShared, 1>(w, at, packed, m, row, first, last, y);
  }
}

void multiply_bf16(const Weight& w, const std::uint16_t* x, std::int64_t m, std::int64_t begin, std::int64_t end, float* y) {
  const bool is_shared = w.group >= kGroup && (w.group & (w.group - 1)) == 0;
  is_shared ? multiply_all<true>(w, x, m, begin, end, y) : multiply_all<false>(w, x, m, begin, end, y);
}

}  // namespace

const Kernels& avx512bf16_kernels() {
  static constexpr Kernels table{"avx512bf16", dequantize, multiply_avx512, multiply_bf16, range, quantize_tile, moments_f32, moments_bf16};
  return table;
}
}  // namespace tenon::gptq::detail
