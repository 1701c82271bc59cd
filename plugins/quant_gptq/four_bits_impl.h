// Products with four-bit codes, the usual case, without taking codes apart one by one. One body beside kernels_impl.h, and like it: internal linkage,
// compiled for each kind of processor, which brings its vectors as Isa:
//   X, Codes, Table, Floats   an element of x; a vector of dwords of codes; what turns codes into values; a vector of as many floats
//   kGroup, kPanel            codes of one vector; columns of x that are packed at a time
//   kSteps                    shifts by 4j that show each code of a dword once (8), or of each of its words (4)
//   kRows, kMost              rows of the weight, and at most of x, that a tile has where x has several
//   kTakesZero                whether table(zero) already takes the zero from every code; otherwise it is table(0)
//   load, table, value, add   codes, of which some may be missing; see above; the values at step j; sum + value * x
#pragma once
#include <immintrin.h>

#include "kernels_impl.h"

// Vectors in arrays stay in registers only where every index is known.
#define TENON_UNROLL _Pragma("GCC unroll 8")

namespace tenon::gptq::detail {
namespace {

template <class Isa>
class FourBits {
  using X = typename Isa::X;
  using Floats = typename Isa::Floats;
  static constexpr std::int64_t kGroup = Isa::kGroup, kPanel = Isa::kPanel, kDwords = kGroup / 8, kWidth = kGroup / Isa::kSteps;

 public:
  // Groups of a multiple of 8 columns.
  static void multiply(const Weight& w, const X* x, std::int64_t m, std::int64_t begin, std::int64_t end, float* y) {
    const bool is_shared = w.group >= kGroup && (w.group & (w.group - 1)) == 0;
    is_shared ? multiply_all<true>(w, x, m, begin, end, y) : multiply_all<false>(w, x, m, begin, end, y);
  }

 private:
  struct Packed {
    alignas(64) X x[kFusedRows * kPanel];             // [group][m][step][place], zero behind the last column
    alignas(64) float sums[kFusedRows * kPanel / 8];  // [group][m][dword]: of the 8 columns that a dword of codes stands for
  };

  // What is the same for all products with a weight. Divisions are slow enough to be seen: none where rows are multiplied.
  struct Layout {
    std::int64_t words, groups;  // of a row
    int shift;                   // columns to groups, where groups are a power of two of at least kGroup columns
  };

  static void pack(const X* x, std::int64_t stride, std::int64_t m, std::int64_t cols, Packed& to) {
    X* out = to.x;
    float* sums = to.sums;
    for (std::int64_t k = 0; k < cols; k += kGroup)
      for (std::int64_t i = 0; i < m; ++i, out += kGroup, sums += kDwords) {
        const X* from = x + i * stride + k;
        const std::int64_t live = cols - k < kGroup ? cols - k : kGroup;
        for (std::int64_t place = 0; place < kWidth; ++place)
          for (std::int64_t j = 0; j < Isa::kSteps; ++j)
            out[kWidth * j + place] = Isa::kSteps * place < live ? from[Isa::kSteps * place + j] : X{0};
        for (std::int64_t d = 0; d < kDwords; ++d) {
          float sum = 0;
          for (std::int64_t c = 8 * d; c < 8 * d + 8 && c < live; ++c) sum += Isa::number(from[c]);
          sums[d] = sum;
        }
      }
  }

  // Of each lane at column k, which stands for 8 columns: its scale and zero.
  TENON_GPTQ_INLINE void lane_factors(const Weight& w, const Layout& at, std::int64_t row, std::int64_t k, Floats& scale, Floats& zero) {
    alignas(64) float s[kDwords], z[kDwords];
    for (std::int64_t d = 0; d < kDwords; ++d) {
      const std::int64_t g = row * at.groups + (k + 8 * d < w.cols ? (k + 8 * d) / w.group : 0);
      s[d] = half(w.scales[g]);
      z[d] = static_cast<float>(w.zeros[g]);
    }
    scale = Isa::floats(s), zero = Isa::floats(z);
  }

  // kN rows of the weight with kM of x, columns [first, last): added to y. The order of operations for one y is the same for all kN and kM.
  // kShared: a group of codes has one scale and zero, otherwise each lane its own. A zero that no table takes is taken from the sum.
  template <bool kShared, int kN, int kM>
  TENON_GPTQ_INLINE void multiply_tile(const Weight& w, const Layout& at, const Packed& packed, std::int64_t m, std::int64_t i0,
                                       std::int64_t row, std::int64_t first, std::int64_t last, float* y) {
    constexpr bool kTakesZero = kShared && Isa::kTakesZero;
    Floats total[kN][kM];
    TENON_UNROLL
    for (int n = 0; n < kN; ++n) TENON_UNROLL
    for (int i = 0; i < kM; ++i) total[n][i] = Floats{};
    const X* x = packed.x + i0 * kGroup;
    const float* x_sums = packed.sums + i0 * kDwords;
    for (std::int64_t k = first; k < last; k += kGroup, x += m * kGroup, x_sums += m * kDwords) {
      typename Isa::Codes codes[kN];
      typename Isa::Table table[kN];
      Floats scale[kN], zero[kN], sum[kN][kM];
      TENON_UNROLL
      for (int n = 0; n < kN; ++n) {
        const std::uint32_t* from = w.codes + (row + n) * at.words + k / 8;
        codes[n] = Isa::load(from, last - k);
        // The same place in the next rows: the processor's own prefetching ends where a row does.
        _mm_prefetch(reinterpret_cast<const char*>(from + kN * at.words), _MM_HINT_T1);
        if constexpr (kShared) {
          const std::int64_t g = (row + n) * at.groups + (k >> at.shift);
          scale[n] = Isa::all(half(w.scales[g]));
          if constexpr (!kTakesZero) zero[n] = Isa::all(static_cast<float>(w.zeros[g]));
          table[n] = Isa::table(kTakesZero ? w.zeros[g] : 0);
        } else {
          lane_factors(w, at, row + n, k, scale[n], zero[n]);
          table[n] = Isa::table(0);
        }
        TENON_UNROLL
        for (int i = 0; i < kM; ++i) sum[n][i] = Floats{};
      }
      TENON_UNROLL
      for (int j = 0; j < Isa::kSteps; ++j) TENON_UNROLL
      for (int n = 0; n < kN; ++n) {
        const auto value = Isa::value(codes[n], j, table[n]);
        TENON_UNROLL
        for (int i = 0; i < kM; ++i) sum[n][i] = Isa::add(sum[n][i], value, x + i * kGroup + kWidth * j);
      }
      TENON_UNROLL
      for (int n = 0; n < kN; ++n) TENON_UNROLL
      for (int i = 0; i < kM; ++i) {
        if constexpr (!kTakesZero) sum[n][i] = Isa::less(sum[n][i], zero[n], Isa::floats(x_sums + i * kDwords));
        total[n][i] = Isa::plus(total[n][i], sum[n][i], scale[n]);
      }
    }
    TENON_UNROLL
    for (int n = 0; n < kN; ++n) TENON_UNROLL
    for (int i = 0; i < kM; ++i) {
      float& to = y[(i0 + i) * w.rows + row + n];
      to = (first == 0 ? 0.0f : to) + Isa::lane_sum(total[n][i]);
    }
  }

  template <bool kShared, int kN>
  TENON_GPTQ_INLINE void multiply_rows(const Weight& w, const Layout& at, const Packed& packed, std::int64_t m, std::int64_t row,
                                       std::int64_t first, std::int64_t last, float* y) {
    std::int64_t i = 0;
    if constexpr (Isa::kMost >= 4)
      for (; i + 4 <= m; i += 4) multiply_tile<kShared, kN, 4>(w, at, packed, m, i, row, first, last, y);
    for (; i + 2 <= m; i += 2) multiply_tile<kShared, kN, 2>(w, at, packed, m, i, row, first, last, y);
    if (i < m) multiply_tile<kShared, kN, 1>(w, at, packed, m, i, row, first, last, y);
  }

  template <bool kShared>
  static void multiply_all(const Weight& w, const X* x, std::int64_t m, std::int64_t begin, std::int64_t end, float* y) {
    const Layout at{w.words(), w.groups(), kShared ? __builtin_ctzll(static_cast<unsigned long long>(w.group)) : 0};
    Packed packed;
    for (std::int64_t first = 0; first < w.cols; first += kPanel) {
      const std::int64_t last = first + kPanel < w.cols ? first + kPanel : w.cols;
      pack(x + first, w.cols, m, last - first, packed);
      std::int64_t row = begin;
      if (m == 1)
        for (; row + 4 <= end; row += 4) multiply_tile<kShared, 4, 1>(w, at, packed, m, 0, row, first, last, y);
      for (; row + Isa::kRows <= end; row += Isa::kRows) multiply_rows<kShared, Isa::kRows>(w, at, packed, m, row, first, last, y);
      for (; row < end; ++row) multiply_rows<kShared, 1>(w, at, packed, m, row, first, last, y);
    }
  }
};

}  // namespace
}  // namespace tenon::gptq::detail
