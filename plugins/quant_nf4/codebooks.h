// Code values and decision bounds, worked out at compile time. Internal to the kernels.
#pragma once

#include <array>
#include <cstdint>

#include "kernels.h"

namespace tenon::nf4::detail {

inline constexpr std::array<float, kCodes> kNf4 = {-1.0f,
                                                   -0.6961928009986877f,
                                                   -0.5250730514526367f,
                                                   -0.39491748809814453f,
                                                   -0.28444138169288635f,
                                                   -0.18477343022823334f,
                                                   -0.09105003625154495f,
                                                   0.0f,
                                                   0.07958029955625534f,
                                                   0.16093020141124725f,
                                                   0.24611230194568634f,
                                                   0.33791524171829224f,
                                                   0.44070982933044434f,
                                                   0.5626170039176941f,
                                                   0.7229568362236023f,
                                                   1.0f};

// Two exponent bits, one mantissa bit, a sign; both zeros are positive.
inline constexpr std::array<float, kCodes> kFp4 = {0.0f / 12,  0.0625f / 12, 8.0f / 12,  12.0f / 12,    4.0f / 12,  6.0f / 12,
                                                   2.0f / 12,  3.0f / 12,    0.0f / 12,  -0.0625f / 12, -8.0f / 12, -12.0f / 12,
                                                   -4.0f / 12, -6.0f / 12,   -2.0f / 12, -3.0f / 12};

constexpr const std::array<float, kCodes>& values_of(Codebook codebook) { return codebook == Codebook::Nf4 ? kNf4 : kFp4; }

// A scaled value v in [-1, 1] has rank r = number of bounds below v, and the code by_rank[r]. Instead of 15 comparisons,
// v falls into one of 32 cells, each of which holds at most one bound: r = cell_base + (v > cell_bound). FP4 has a
// second bound beside zero in one cell; `extra` counts it.
inline constexpr int kCells = 32;
inline constexpr float kCellScale = 15.5f;
inline constexpr float kCellShift = 16.0f;

struct Ranks {
  std::array<std::uint8_t, kCodes> by_rank{};
  std::array<float, kCodes - 1> bounds{};
  std::array<float, kCells> cell_bound{};
  std::array<std::int32_t, kCells> cell_base{};
  float extra = 0;
  bool has_extra = false;
};

constexpr Ranks make_ranks(const std::array<float, kCodes>& values) {
  Ranks ranks;
  for (int i = 0; i < kCodes; ++i) {  // insertion sort; equal values (FP4's zeros) keep their order
    int at = i;
    for (; at > 0 && values[ranks.by_rank[at - 1]] > values[i]; --at) ranks.by_rank[at] = ranks.by_rank[at - 1];
    ranks.by_rank[at] = static_cast<std::uint8_t>(i);
  }
  for (int cell = 0; cell < kCells; ++cell) ranks.cell_bound[cell] = 2.0f;  // above every v: no bound in this cell
  std::array<int, kCells> held{};
  for (int r = 0; r + 1 < kCodes; ++r) {
    const float bound = (values[ranks.by_rank[r]] + values[ranks.by_rank[r + 1]]) / 2;
    ranks.bounds[r] = bound;
    const int cell = static_cast<int>(bound * kCellScale + kCellShift);
    if (held[cell]++ == 0) {
      ranks.cell_bound[cell] = bound;
    } else {
      if (ranks.has_extra || held[cell] > 2) throw "more than one cell holds more than one bound";
      ranks.extra = bound;
      ranks.has_extra = true;
    }
  }
  int below = 0;
  for (int cell = 0; cell < kCells; ++cell) {
    ranks.cell_base[cell] = below;
    below += held[cell] > 0 ? 1 : 0;
  }
  return ranks;
}

inline constexpr Ranks kNf4Ranks = make_ranks(kNf4);
inline constexpr Ranks kFp4Ranks = make_ranks(kFp4);
static_assert(!kNf4Ranks.has_extra && kFp4Ranks.has_extra);

constexpr const Ranks& ranks_of(Codebook codebook) { return codebook == Codebook::Nf4 ? kNf4Ranks : kFp4Ranks; }

// The signed 8-bit dynamic map (Dettmers, arXiv:1511.04561): seven decades, each twice as finely divided as the one below,
// from the middles of equal steps over [0.1, 1], and the values 0 and 1.
constexpr std::array<float, kNestedCodes> make_dynamic_map() {
  constexpr std::array<float, 7> kDecade = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
  std::array<float, kNestedCodes> map{};
  int positive = 128;  // map[127] is 0
  for (int decade = 0; decade < 7; ++decade) {
    const int steps = 1 << decade;
    const float step = (1.0f - 0.1f) / static_cast<float>(steps);
    // The upper half of the borders counts down from 1; each is rounded once (a fused multiply-add, exact in double), as
    // torch.linspace computes them on processors that have the instruction.
    auto border = [&](int i) {
      const double from_low = double(0.1f) + double(step) * i;
      const double from_high = 1.0 - double(step) * (steps - i);
      return static_cast<float>(i < (steps + 1) / 2 ? from_low : from_high);
    };
    for (int i = 0; i < steps; ++i) {
      const float value = kDecade[decade] * ((border(i) + border(i + 1)) / 2.0f);
      map[positive] = value;
      map[254 - positive] = -value;
      ++positive;
    }
  }
  map[255] = 1.0f;
  return map;
}

inline constexpr std::array<float, kNestedCodes> kDynamicMap = make_dynamic_map();

}  // namespace tenon::nf4::detail
