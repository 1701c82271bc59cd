#include <immintrin.h>

#include "kernels_impl.h"
#include "moments_impl.h"

// Vectors in arrays stay in registers only where every index is known.
#define TENON_UNROLL _Pragma("GCC unroll 8")

namespace tenon::gptq::detail {
namespace {

// Four bits, the usual case: 64 codes are 8 dwords; shifted by 4j, each dword's low nibble is element 8 * dword + j. The sum of codes times x is
// taken first, and the zero, which is the same for a dword's eight columns, times the sum of their x comes off it.
constexpr std::int64_t kGroup = 64, kPanel = 2048;

struct Packed {
  alignas(32) float x[kFusedRows * kPanel];         // [group][m][j][dword], zero behind the last column
  alignas(32) float sums[kFusedRows * kPanel / 8];  // [group][m][dword]
};

void pack(const float* x, std::int64_t stride, std::int64_t m, std::int64_t cols, Packed& to) {
  float *out = to.x, *sums = to.sums;
  for (std::int64_t k = 0; k < cols; k += kGroup)
    for (std::int64_t i = 0; i < m; ++i, out += kGroup, sums += 8) {
      const float* from = x + i * stride + k;
      const std::int64_t dwords = (cols - k < kGroup ? cols - k : kGroup) / 8;
      for (std::int64_t d = 0; d < 8; ++d) {
        float sum = 0;
        for (std::int64_t j = 0; j < 8; ++j) sum += out[8 * j + d] = d < dwords ? from[8 * d + j] : 0.0f;
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
template <bool kShared>
TENON_GPTQ_INLINE void lane_factors(const Weight& w, const Layout& at, std::int64_t row, std::int64_t k, __m256& scale, __m256& zero) {
  const std::uint16_t* scales = w.scales + row * at.groups;
  const std::uint8_t* zeros = w.zeros + row * at.groups;
  if constexpr (kShared) {
    scale = _mm256_cvtph_ps(_mm_set1_epi16(static_cast<short>(scales[k >> at.shift])));
    zero = _mm256_set1_ps(static_cast<float>(zeros[k >> at.shift]));
  } else {
    alignas(32) float s[8], z[8];
    for (std::int64_t d = 0; d < 8; ++d) {
      const std::int64_t g = k + 8 * d < w.cols ? (k + 8 * d) / w.group : 0;
      s[d] = _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(scales[g])));
      z[d] = static_cast<float>(zeros[g]);
    }
    scale = _mm256_load_ps(s), zero = _mm256_load_ps(z);
  }
}

TENON_GPTQ_INLINE float lane_sum(__m256 v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// kN rows of the weight with kM of x, columns [first, last): added to y. The order of operations for one y is the same for all kN and kM.
template <bool kShared, int kN, int kM>
TENON_GPTQ_INLINE void multiply_tile(const Weight& w, const Layout& at, const Packed& packed, std::int64_t m, std::int64_t i0,
                                     std::int64_t row, std::int64_t first, std::int64_t last, float* y) {
  const __m256i nibble = _mm256_set1_epi32(15);
  __m256 total[kN][kM];
  TENON_UNROLL
  for (int n = 0; n < kN; ++n) TENON_UNROLL
  for (int i = 0; i < kM; ++i) total[n][i] = _mm256_setzero_ps();
  const float *x = packed.x + i0 * kGroup, *x_sums = packed.sums + i0 * 8;
  for (std::int64_t k = first; k < last; k += kGroup, x += m * kGroup, x_sums += m * 8) {
    __m256i codes[kN];
    __m256 sum[kN][kM];
    TENON_UNROLL
    for (int n = 0; n < kN; ++n) {
      const std::uint32_t* from = w.codes + (row + n) * at.words + k / 8;
      if (last - k >= kGroup) {
        codes[n] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
      } else {
        alignas(32) std::uint32_t rest[8] = {};
        std::memcpy(rest, from, static_cast<std::size_t>(last - k) / 2);
        codes[n] = _mm256_load_si256(reinterpret_cast<const __m256i*>(rest));
      }
      // The same place in the next rows: the processor's own prefetching ends where a row does.
      _mm_prefetch(reinterpret_cast<const char*>(from + kN * at.words), _MM_HINT_T1);
      TENON_UNROLL
      for (int i = 0; i < kM; ++i) sum[n][i] = _mm256_setzero_ps();
    }
    TENON_UNROLL
    for (int j = 0; j < 8; ++j) TENON_UNROLL
    for (int n = 0; n < kN; ++n) {
      const __m256 code = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(codes[n], 4 * j), nibble));
      TENON_UNROLL
      for (int i = 0; i < kM; ++i) sum[n][i] = _mm256_fmadd_ps(code, _mm256_load_ps(x + i * kGroup + 8 * j), sum[n][i]);
    }
    TENON_UNROLL
    for (int n = 0; n < kN; ++n) {
      __m256 scale, zero;
      lane_factors<kShared>(w, at, row + n, k, scale, zero);
      TENON_UNROLL
      for (int i = 0; i < kM; ++i)
        total[n][i] = _mm256_fmadd_ps(_mm256_fnmadd_ps(zero, _mm256_load_ps(x_sums + i * 8), sum[n][i]), scale, total[n][i]);
    }
  }
  TENON_UNROLL
  for (int n = 0; n < kN; ++n) TENON_UNROLL
  for (int i = 0; i < kM; ++i) {
    float& to = y[(i0 + i) * w.rows + row + n];
    to = (first == 0 ? 0.0f : to) + lane_sum(total[n][i]);
  }
}

template <bool kShared, int kN>
TENON_GPTQ_INLINE void multiply_some(const Weight& w, const Layout& at, const Packed& packed, std::int64_t m, std::int64_t row,
                                     std::int64_t first, std::int64_t last, float* y) {
  std::int64_t i = 0;
  for (; i + 2 <= m; i += 2) multiply_tile<kShared, kN, 2>(w, at, packed, m, i, row, first, last, y);
  if (i < m) multiply_tile<kShared, kN, 1>(w, at, packed, m, i, row, first, last, y);
}

template <bool kShared>
void multiply_all(const Weight& w, const float* x, std::int64_t m, std::int64_t begin, std::int64_t end, float* y) {
  const Layout at{w.words(), w.groups(), kShared ? __builtin_ctzll(static_cast<unsigned long long>(w.group)) : 0};
  Packed packed;
  for (std::int64_t first = 0; first < w.cols; first += kPanel) {
    const std::int64_t last = first + kPanel < w.cols ? first + kPanel : w.cols;
    pack(x + first, w.cols, m, last - first, packed);
    std::int64_t row = begin;
    if (m == 1) {
      for (; row + 4 <= end; row += 4) multiply_tile<kShared, 4, 1>(w, at, packed, m, 0, row, first, last, y);
    }
    for (; row + 2 <= end; row += 2) multiply_some<kShared, 2>(w, at, packed, m, row, first, last, y);
    if (row < end) multiply_some<kShared, 1>(w, at, packed, m, row, first, last, y);
  }
}

void multiply_avx2(const Weight& w, const float* x, std::int64_t m, std::int64_t begin, std::int64_t end, float* y) {
  if (w.bits != 4 || w.group % 8 != 0) return multiply(w, x, m, begin, end, y);
  const bool is_shared = w.group >= kGroup && (w.group & (w.group - 1)) == 0;
  is_shared ? multiply_all<true>(w, x, m, begin, end, y) : multiply_all<false>(w, x, m, begin, end, y);
}

}  // namespace

const Kernels& avx2_kernels() {
  static constexpr Kernels table{"avx2", dequantize, multiply_avx2, nullptr, range, quantize_tile, moments_f32, nullptr};
  return table;
}
}  // namespace tenon::gptq::detail
