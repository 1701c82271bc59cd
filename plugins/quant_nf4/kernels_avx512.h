// The multiply that both AVX-512 files instantiate: codes in groups of 128 (64 bytes), one lookup step per file.
// Internal linkage throughout, for the reason in kernels_internal.h.
#pragma once

// GCC 12's own header trips these (GCC bug 105593): it leaves "undefined" vectors undefined on purpose.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include "kernels_internal.h"

namespace tenon::nf4::detail {

std::size_t avx512_activation_bytes(const Weight& weight, Dtype x_dtype, std::int64_t m);
void avx512_pack_activation(const Weight& weight, const void* x, Dtype dtype, std::int64_t m, std::int64_t stride, void* packed);
void avx512_multiply(const Weight& weight, const void* packed, Dtype x_dtype, std::int64_t m, std::int64_t row_begin, std::int64_t row_end,
                     void* y, Dtype y_dtype, std::int64_t y_stride);

namespace {

constexpr std::int64_t kGroup = 128;
constexpr std::int64_t kPanel = 8192;  // columns whose absmax values are resolved together: at most 256, 1 KiB a row

[[maybe_unused]] inline std::int64_t group_count(std::int64_t cols) { return (cols + kGroup - 1) / kGroup; }

// The dynamic map's values of 16 codes. The map is odd around code 127, so that 128 magnitudes, four permutations, and the 1 at its end
// are enough. (Gathers, and loads one by one, which the vectors behind them then wait for, took a third of a product's time.)
[[maybe_unused]] inline __m512 nested_values(__m128i codes) {
  const float* magnitudes = kDynamicMap.data() + 127;
  const __m512i from_zero = _mm512_sub_epi32(_mm512_cvtepu8_epi32(codes), _mm512_set1_epi32(127));
  const __m512i index = _mm512_abs_epi32(from_zero);
  __m512 part[4];
  for (int p = 0; p < 4; ++p) {
    const __m512 low = _mm512_loadu_ps(magnitudes + 32 * p), high = _mm512_loadu_ps(magnitudes + 32 * p + 16);
    part[p] = _mm512_permutex2var_ps(low, index, high);  // looks at five bits of an index
  }
  const __mmask16 odd = _mm512_test_epi32_mask(index, _mm512_set1_epi32(32));
  const __m512 below = _mm512_mask_mov_ps(part[0], odd, part[1]), above = _mm512_mask_mov_ps(part[2], odd, part[3]);
  const __m512 value = _mm512_mask_mov_ps(below, _mm512_test_epi32_mask(index, _mm512_set1_epi32(64)), above);
  const __m512 all = _mm512_mask_mov_ps(value, _mm512_test_epi32_mask(index, _mm512_set1_epi32(128)), _mm512_set1_ps(1.0f));
  return _mm512_xor_ps(all, _mm512_castsi512_ps(_mm512_and_si512(from_zero, _mm512_set1_epi32(INT32_MIN))));
}

// Absmax values [begin, begin + count) as float32: in place, or resolved into `buffer`.
[[maybe_unused]] inline const float* resolve_absmax(const Weight& weight, std::int64_t begin, std::int64_t count, float* buffer) {
  if (weight.absmax != nullptr) return weight.absmax + begin;
  const std::uint8_t* codes = weight.absmax_codes + begin;
  const __m512 offset = _mm512_set1_ps(weight.nested_offset);
  for (std::int64_t i = 0; i < count;) {
    const std::int64_t left = kNestedBlock - (begin + i) % kNestedBlock;
    const std::int64_t stop = count - i < left ? count : i + left;
    const __m512 nested = _mm512_set1_ps(weight.nested_absmax[(begin + i) / kNestedBlock]);
    for (; i < stop; i += 16) {
      const __mmask16 live = stop - i >= 16 ? 0xffff : static_cast<__mmask16>((1u << (stop - i)) - 1);
      const __m512 scaled = _mm512_mul_ps(nested_values(_mm_maskz_loadu_epi8(live, codes + i)), nested);
      _mm512_mask_storeu_ps(buffer + i, live, _mm512_add_ps(scaled, offset));
    }
    i = stop;
  }
  return buffer;
}

// One factor per lane for the group that begins at absmax[0]; lanes 0..15 stand for 8 columns each.
template <int kPerGroup>
inline __m512 group_scale(const float* absmax) {
  if constexpr (kPerGroup == 1) {
    return _mm512_set1_ps(absmax[0]);
  } else if constexpr (kPerGroup == 2) {
    double both;
    __builtin_memcpy(&both, absmax, sizeof both);
    const __m512 pair = _mm512_castpd_ps(_mm512_set1_pd(both));
    return _mm512_permutevar_ps(pair, _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
  } else {
    const __m512 four = _mm512_broadcast_f32x4(_mm_loadu_ps(absmax));
    return _mm512_permutevar_ps(four, _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3));
  }
}

// The sums of four vectors, each in the order of _mm512_reduce_add_ps: lanes 8 apart, then 4, 2 and 1.
[[maybe_unused]] inline __m128 sum_of_each(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
  const __m512 four = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  const __m512 two = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4e));
  const __m512 one = _mm512_add_ps(two, _mm512_permute_ps(two, 0xb1));
  return _mm512_castps512_ps128(_mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), one));
}

// kRows rows of the weight with kM rows of x. The order of operations for one y[m, n] is the same for all kRows and kM.
template <class Step, int kPerGroup, int kRows, int kM>
void multiply_tile(const Step& step, const Weight& weight, const typename Step::Activation* x, std::int64_t m, std::int64_t m0,
                   std::int64_t n0, void* y, Dtype y_dtype, std::int64_t y_stride) {
  constexpr int kVectors = Step::kVectors;
  const std::int64_t cols = weight.cols;
  const std::int64_t row_bytes = cols / 2;
  const std::int64_t row_blocks = cols / weight.block;
  const int shift = log2_of(weight.block);
  float resolved[kRows][kPanel / 32];
  __m512 sums[kRows][kM];
  for (auto& row : sums) {
    for (auto& sum : row) sum = _mm512_setzero_ps();
  }
  for (std::int64_t panel = 0; panel < cols; panel += kPanel) {
    const std::int64_t width = cols - panel < kPanel ? cols - panel : kPanel;
    const std::uint8_t* codes = weight.codes + n0 * row_bytes + panel / 2;
    const float* absmax[kRows];
    if (cols <= kPanel) {  // those of all rows lie one behind the other
      absmax[0] = resolve_absmax(weight, n0 * row_blocks, kRows * row_blocks, resolved[0]);
      for (int r = 1; r < kRows; ++r) absmax[r] = absmax[0] + r * row_blocks;
    } else {
      for (int r = 0; r < kRows; ++r) {
        const std::int64_t first = (n0 + r) * row_blocks + (panel >> shift);
        absmax[r] = resolve_absmax(weight, first, width >> shift, resolved[r]);
      }
    }
    const typename Step::Activation* at = x + (panel / kGroup * m + m0) * kGroup;
    auto group = [&](const __m512i(&loaded)[kRows], const float* const(&factors)[kRows]) {
      constexpr std::int64_t kStride = kGroup / kVectors;
      if constexpr (kM == 1) {  // a place of all rows after another: only one vector of codes at a time
        __m512 sum[kRows];
        for (int r = 0; r < kRows; ++r) sum[r] = Step::start(step.look_up(loaded[r], 0), at);
        for (int j = 1; j < kVectors; ++j) {
          for (int r = 0; r < kRows; ++r) sum[r] = Step::add(sum[r], step.look_up(loaded[r], j), at + j * kStride);
        }
        for (int r = 0; r < kRows; ++r) sums[r][0] = _mm512_fmadd_ps(sum[r], group_scale<kPerGroup>(factors[r]), sums[r][0]);
      } else {
        typename Step::Vector expanded[kRows][kVectors];
        __m512 scale[kRows];
        for (int r = 0; r < kRows; ++r) scale[r] = group_scale<kPerGroup>(factors[r]);
        for (int r = 0; r < kRows; ++r) {
          for (int j = 0; j < kVectors; ++j) expanded[r][j] = step.look_up(loaded[r], j);
        }
        for (int i = 0; i < kM; ++i) {
          const typename Step::Activation* xi = at + i * kGroup;
          for (int r = 0; r < kRows; ++r) {
            __m512 sum = Step::start(expanded[r][0], xi);
            for (int j = 1; j < kVectors; ++j) sum = Step::add(sum, expanded[r][j], xi + j * kStride);
            sums[r][i] = _mm512_fmadd_ps(sum, scale[r], sums[r][i]);
          }
        }
      }
      at += m * kGroup;
    };
    std::int64_t k = 0;
    for (; k + kGroup <= width; k += kGroup) {
      __m512i loaded[kRows];
      const float* factors[kRows];
      for (int r = 0; r < kRows; ++r) {
        const std::uint8_t* row = codes + r * row_bytes + k / 2;
        loaded[r] = _mm512_loadu_si512(row);
        // The same place in the next rows, into the second cache: twice as fast as leaving it to the processor.
        _mm_prefetch(reinterpret_cast<const char*>(row) + kRows * row_bytes, _MM_HINT_T1);
        factors[r] = absmax[r] + (k >> shift);
      }
      group(loaded, factors);
    }
    if (k < width) {  // 32, 64 or 96 columns, whole blocks; what is masked off meets zeros of x
      const auto live = static_cast<__mmask16>((1u << ((width - k) / 8)) - 1);
      __m512i loaded[kRows];
      float last[kRows][4] = {};
      const float* factors[kRows];
      for (int r = 0; r < kRows; ++r) {
        loaded[r] = _mm512_maskz_loadu_epi32(live, codes + r * row_bytes + k / 2);
        for (std::int64_t b = k >> shift; b < width >> shift; ++b) last[r][b - (k >> shift)] = absmax[r][b];
        factors[r] = last[r];
      }
      group(loaded, factors);
    }
  }
  for (int i = 0; i < kM; ++i) {
    float totals[kRows];
    if constexpr (kRows == 4) {
      _mm_storeu_ps(totals, sum_of_each(sums[0][i], sums[1][i], sums[2][i], sums[3][i]));
    } else {
      for (int r = 0; r < kRows; ++r) totals[r] = _mm512_reduce_add_ps(sums[r][i]);
    }
    for (int r = 0; r < kRows; ++r) store_element(y, y_dtype, (m0 + i) * y_stride + n0 + r, totals[r] * step.factor);
  }
}

template <class Step, int kPerGroup, int kRows>
void multiply_rows(const Step& step, const Weight& weight, const typename Step::Activation* x, std::int64_t m, std::int64_t n, void* y,
                   Dtype y_dtype, std::int64_t y_stride) {
  constexpr int kTile = Step::kTile;  // rows of x at once, as many sums as registers hold
  std::int64_t m0 = 0;
  for (; m0 + kTile <= m; m0 += kTile) {
    multiply_tile<Step, kPerGroup, kRows, kTile>(step, weight, x, m, m0, n, y, y_dtype, y_stride);
  }
  if constexpr (kTile > 4) {
    for (; m0 + 4 <= m; m0 += 4) multiply_tile<Step, kPerGroup, kRows, 4>(step, weight, x, m, m0, n, y, y_dtype, y_stride);
  }
  for (; m0 + 2 <= m; m0 += 2) multiply_tile<Step, kPerGroup, kRows, 2>(step, weight, x, m, m0, n, y, y_dtype, y_stride);
  if (m0 < m) multiply_tile<Step, kPerGroup, kRows, 1>(step, weight, x, m, m0, n, y, y_dtype, y_stride);
}

template <class Step, int kPerGroup>
void multiply_range(const Weight& weight, const typename Step::Activation* x, std::int64_t m, std::int64_t row_begin, std::int64_t row_end,
                    void* y, Dtype y_dtype, std::int64_t y_stride) {
  const Step step(weight.codebook);
  std::int64_t n = row_begin;
  if (m == 1) {
    constexpr int kRows = Step::kRowsAlone;
    for (; n + kRows <= row_end; n += kRows) {
      multiply_tile<Step, kPerGroup, kRows, 1>(step, weight, x, m, 0, n, y, y_dtype, y_stride);
    }
  }
  for (; n + 2 <= row_end; n += 2) multiply_rows<Step, kPerGroup, 2>(step, weight, x, m, n, y, y_dtype, y_stride);
  if (n < row_end) multiply_rows<Step, kPerGroup, 1>(step, weight, x, m, n, y, y_dtype, y_stride);
}

template <class Step>
void multiply_groups(const Weight& weight, const typename Step::Activation* x, std::int64_t m, std::int64_t row_begin, std::int64_t row_end,
                     void* y, Dtype y_dtype, std::int64_t y_stride) {
  switch (weight.block) {
    case 32: return multiply_range<Step, 4>(weight, x, m, row_begin, row_end, y, y_dtype, y_stride);
    case 64: return multiply_range<Step, 2>(weight, x, m, row_begin, row_end, y, y_dtype, y_stride);
    default: return multiply_range<Step, 1>(weight, x, m, row_begin, row_end, y, y_dtype, y_stride);
  }
}

}  // namespace
}  // namespace tenon::nf4::detail
