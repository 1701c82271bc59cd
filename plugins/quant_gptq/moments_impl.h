// The body of add_moments' kernels, beside kernels_impl.h and like it: internal linkage, compiled once per kind of processor.
#pragma once
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "kernels_impl.h"

namespace tenon::gptq::detail {
namespace {

// kRows x kLanes * kVectors sums stay in registers while all steps go by.
#if defined(__AVX512F__)
constexpr int kMomentRows = 8, kMomentVectors = 3;
#else
constexpr int kMomentRows = 6, kMomentVectors = 1;
#endif
static_assert(kPanelColumns % kMomentRows == 0 && kPanelColumns % (kLanes * kMomentVectors) == 0);

// What the tile at row i and column j of a pair of panels found goes to the sum; columns that are padding do not.
TENON_GPTQ_INLINE void add_tile(const Moments& m, int i, int j, const F16 (&found)[kMomentRows][kMomentVectors]) {
  for (int r = 0; r < kMomentRows && i + r < m.rows; ++r) {
    float* sum = m.sum + (i + r) * m.stride + j;
    for (int v = 0; v < kMomentVectors; ++v) {
      const std::int64_t width = m.columns - j - v * kLanes;
      if (width >= kLanes) {
        F16 total;
        load(sum + v * kLanes, total);
        store(sum + v * kLanes, total + found[r][v]);
      } else {
        for (int lane = 0; lane < width; ++lane) sum[v * kLanes + lane] += found[r][v][lane];
      }
    }
  }
}

void moments_f32(const Moments& m) {
  const float *left = static_cast<const float*>(m.left), *right = static_cast<const float*>(m.right);
  for (int j = 0; j < m.columns; j += kMomentVectors * kLanes)
    for (int i = 0; i < m.rows; i += kMomentRows) {
      F16 found[kMomentRows][kMomentVectors] = {};
      for (std::int64_t k = 0; k < m.steps; ++k) {
        F16 b[kMomentVectors];
        for (int v = 0; v < kMomentVectors; ++v) load(right + k * kPanelColumns + j + v * kLanes, b[v]);
        for (int r = 0; r < kMomentRows; ++r)
          for (int v = 0; v < kMomentVectors; ++v) found[r][v] += left[k * kPanelColumns + i + r] * b[v];
      }
      add_tile(m, i, j, found);
    }
}

#if defined(__AVX512BF16__)
// As above, two tokens a step.
void moments_bf16(const Moments& m) {
  const auto *left = static_cast<const std::int32_t*>(m.left), *right = static_cast<const std::int32_t*>(m.right);
  for (int j = 0; j < m.columns; j += kMomentVectors * kLanes)
    for (int i = 0; i < m.rows; i += kMomentRows) {
      __m512 found[kMomentRows][kMomentVectors];
      for (auto& row : found)
        for (auto& sum : row) sum = _mm512_setzero_ps();
      for (std::int64_t k = 0; k < m.steps; ++k) {
        __m512bh b[kMomentVectors];
        for (int v = 0; v < kMomentVectors; ++v) b[v] = (__m512bh)_mm512_loadu_si512(right + k * kPanelColumns + j + v * kLanes);
        for (int r = 0; r < kMomentRows; ++r) {
          const auto a = (__m512bh)_mm512_set1_epi32(left[k * kPanelColumns + i + r]);
          for (int v = 0; v < kMomentVectors; ++v) found[r][v] = _mm512_dpbf16_ps(found[r][v], a, b[v]);
        }
      }
      F16 sums[kMomentRows][kMomentVectors];
      std::memcpy(sums, found, sizeof sums);
      add_tile(m, i, j, sums);
    }
}
#endif

}  // namespace
}  // namespace tenon::gptq::detail
