#include <immintrin.h>

#include "kernels_impl.h"
#include "moments_impl.h"

// Vectors in arrays stay in registers only where every index is known.
#define TENON_UNROLL _Pragma("GCC unroll 8")

namespace tenon::gptq::detail {
namespace {

// Four bits, the usual case, without taking codes apart one by one: 128 codes are 16 dwords; shifted by 4j, each dword's low nibble is element
// 8 * dword + j, and one permutation turns sixteen of them into values.
constexpr std::int64_t kGroup = 128, kPanel = 2048;

// x as [group][m][j][dword], zero behind the last column.
void pack_groups(const float* x, std::int64_t stride, std::int64_t m, std::int64_t cols, float* packed) {
  for (std::int64_t k = 0; k < cols; k += kGroup)
    for (std::int64_t i = 0; i < m; ++i, packed += kGroup) {
      const float* from = x + i * stride + k;
      const std::int64_t dwords = (cols - k < kGroup ? cols - k : kGroup) / 8;
      for (std::int64_t j = 0; j < 8; ++j)
        for (std::int64_t d = 0; d < 16; ++d) packed[16 * j + d] = d < dwords ? from[8 * d + j] : 0.0f;
    }
}

// What is the same for all products with a weight. Divisions are slow enough to be seen: none where rows are multiplied.
struct Layout {
  std::int64_t words, groups;  // of a row
  int shift;                   // columns to groups, where groups are a power of two of at least kGroup columns
};

TENON_GPTQ_INLINE float widened(std::uint16_t half) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half))); }

// Of each lane of the group at column k, which stands for 8 columns: its scale and zero.
template <bool kShared>
TENON_GPTQ_INLINE void lane_factors(const Weight& w, const Layout& at, std::int64_t row, std::int64_t k, __m512& scale, __m512& zero) {
  const std::uint16_t* scales = w.scales + row * at.groups;
  const std::uint8_t* zeros = w.zeros + row * at.groups;
  if constexpr (kShared) {
    scale = _mm512_set1_ps(widened(scales[k >> at.shift]));
    zero = _mm512_set1_ps(static_cast<float>(zeros[k >> at.shift]));
    return;
  }
  alignas(64) float s[16], z[16];
  for (std::int64_t d = 0; d < 16; ++d) {
    const std::int64_t g = k + 8 * d < w.cols ? (k + 8 * d) / w.group : 0;
    s[d] = widened(scales[g]);
    z[d] = static_cast<float>(zeros[g]);
  }
  scale = _mm512_load_ps(s);
  zero = _mm512_load_ps(z);
}

// kN rows of the weight with kM of x, columns [first, last): added to y. The order of operations for one y is the same for all kN and kM.
// kShared: 128 columns have one scale and zero, otherwise each lane its own.
template <bool kShared, int kN, int kM>
TENON_GPTQ_INLINE void multiply_tile(const Weight& w, const Layout& at, const float* packed, std::int64_t m, std::int64_t i0,
                                     std::int64_t row, std::int64_t first, std::int64_t last, float* y) {
  const __m512 values = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  __m512 total[kN][kM];
  TENON_UNROLL
  for (int n = 0; n < kN; ++n) TENON_UNROLL
  for (int i = 0; i < kM; ++i) total[n][i] = _mm512_setzero_ps();
  const float* x = packed + i0 * kGroup;
  for (std::int64_t k = first; k < last; k += kGroup, x += m * kGroup) {
    const std::int64_t left = last - k;
    const auto live = static_cast<__mmask16>(left >= kGroup ? 0xffff : (1u << (left / 8)) - 1);
    __m512 scale[kN], table[kN], zero[kN], sum[kN][kM];
    __m512i codes[kN];
    TENON_UNROLL
    for (int n = 0; n < kN; ++n) {
      const std::uint32_t* from = w.codes + (row + n) * at.words + k / 8;
      codes[n] = _mm512_maskz_loadu_epi32(live, from);
      // The same place in the next rows: the processor's own prefetching ends where a row does.
      _mm_prefetch(reinterpret_cast<const char*>(from + kN * at.words), _MM_HINT_T1);
      lane_factors<kShared>(w, at, row + n, k, scale[n], zero[n]);
      table[n] = kShared ? _mm512_sub_ps(values, zero[n]) : values;
      TENON_UNROLL
      for (int i = 0; i < kM; ++i) sum[n][i] = _mm512_setzero_ps();
    }
    TENON_UNROLL
    for (unsigned j = 0; j < 8; ++j) TENON_UNROLL
    for (int n = 0; n < kN; ++n) {
      __m512 value = _mm512_permutexvar_ps(_mm512_srli_epi32(codes[n], 4 * j), table[n]);  // looks at four bits of an index
      if constexpr (!kShared) value = _mm512_sub_ps(value, zero[n]);
      TENON_UNROLL
      for (int i = 0; i < kM; ++i) sum[n][i] = _mm512_fmadd_ps(value, _mm512_load_ps(x + i * kGroup + 16 * j), sum[n][i]);
    }
    TENON_UNROLL
    for (int n = 0; n < kN; ++n) TENON_UNROLL
    for (int i = 0; i < kM; ++i) total[n][i] = _mm512_fmadd_ps(sum[n][i], scale[n], total[n][i]);
  }
  TENON_UNROLL
  for (int n = 0; n < kN; ++n) TENON_UNROLL
  for (int i = 0; i < kM; ++i) {
    float& to = y[(i0 + i) * w.rows + row + n];
    to = (first == 0 ? 0.0f : to) + _mm512_reduce_add_ps(total[n][i]);
  }
}

template <bool kShared, int kN>
TENON_GPTQ_INLINE void multiply_some(const Weight& w, const Layout& at, const float* packed, std::int64_t m, std::int64_t row,
                                     std::int64_t first, std::int64_t last, float* y) {
  std::int64_t i = 0;
  for (; i + 4 <= m; i += 4) multiply_tile<kShared, kN, 4>(w, at, packed, m, i, row, first, last, y);
  for (; i + 2 <= m; i += 2) multiply_tile<kShared, kN, 2>(w, at, packed, m, i, row, first, last, y);
  if (i < m) multiply_tile<kShared, kN, 1>(w, at, packed, m, i, row, first, last, y);
}

template <bool kShared>
void multiply_all(const Weight& w, const float* x, std::int64_t m, std::int64_t begin, std::int64_t end, float* y) {
  const Layout at{w.words(), w.groups(), kShared ? __builtin_ctzll(static_cast<unsigned long long>(w.group)) : 0};
  alignas(64) float packed[kFusedRows * kPanel];
  for (std::int64_t first = 0; first < w.cols; first += kPanel) {
    const std::int64_t last = first + kPanel < w.cols ? first + kPanel : w.cols;
    pack_groups(x + first, w.cols, m, last - first, packed);
    std::int64_t row = begin;
    if (m == 1) {
      for (; row + 4 <= end; row += 4) multiply_tile<kShared, 4, 1>(w, at, packed, m, 0, row, first, last, y);
    }
    for (; row + 2 <= end; row += 2) multiply_some<kShared, 2>(w, at, packed, m, row, first, last, y);
    if (row < end) multiply_some<kShared, 1>(w, at, packed, m, row, first, last, y);
  }
}

}  // namespace

void multiply_avx512(const Weight& w, const float* x, std::int64_t m, std::int64_t begin, std::int64_t end, float* y) {
  if (w.bits != 4 || w.group % 8 != 0) return multiply(w, x, m, begin, end, y);
  const bool is_shared = w.group >= kGroup && (w.group & (w.group - 1)) == 0;
  is_shared ? multiply_all<true>(w, x, m, begin, end, y) : multiply_all<false>(w, x, m, begin, end, y);
}

const Kernels& avx512_kernels() {
  static constexpr Kernels table{"avx512", dequantize, multiply_avx512, nullptr, range, quantize_tile, moments_f32, nullptr};
  return table;
}
}  // namespace tenon::gptq::detail
