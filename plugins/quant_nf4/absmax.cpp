// Double quantization of absmax values: bitsandbytes' order of addition and its 16-bit rank table, reproduced exactly.
// Compiled with -ffp-contract=off: where an operation is fused or not is part of the result.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "codebooks.h"
#include "kernels.h"

namespace tenon::nf4 {
namespace {

constexpr int kStreams = 4;  // torch adds four interleaved rows of vectors
constexpr int kLevels = 4;   // of partial sums; a level is folded into the next when it holds a full step

int ceil_log2(std::int64_t n) {
  int bits = 0;
  while ((std::int64_t{1} << bits) < n) ++bits;
  return bits;
}

// Sums `count` groups of kLanes neighbours, lane by lane, as torch's cascade sum does with vectors of kLanes.
template <int kLanes>
void cascade_sum(const float* data, std::int64_t count, float* lanes) {
  constexpr int kWidth = kStreams * kLanes;
  const std::int64_t steps = count / kStreams;
  const int power = std::max(4, ceil_log2(steps) / kLevels);
  const std::int64_t step = std::int64_t{1} << power;
  float sums[kLevels][kWidth] = {};
  std::int64_t i = 0;
  while (i + step <= steps) {
    for (std::int64_t j = 0; j < step; ++j, ++i) {
      for (int k = 0; k < kWidth; ++k) sums[0][k] += data[i * kWidth + k];
    }
    for (int level = 1; level < kLevels; ++level) {
      for (int k = 0; k < kWidth; ++k) {
        sums[level][k] += sums[level - 1][k];
        sums[level - 1][k] = 0;
      }
      if ((i & ((step - 1) << (level * power))) != 0) break;
    }
  }
  for (; i < steps; ++i) {
    for (int k = 0; k < kWidth; ++k) sums[0][k] += data[i * kWidth + k];
  }
  for (int level = 1; level < kLevels; ++level) {
    for (int k = 0; k < kWidth; ++k) sums[0][k] += sums[level][k];
  }
  for (std::int64_t g = steps * kStreams; g < count; ++g) {
    for (int l = 0; l < kLanes; ++l) sums[0][l] += data[g * kLanes + l];
  }
  for (int l = 0; l < kLanes; ++l) {
    lanes[l] = sums[0][l];
    for (int s = 1; s < kStreams; ++s) lanes[l] += sums[0][s * kLanes + l];
  }
}

constexpr int kRankSteps = 65536;

// Code by scaled value, where [-1, 1] is cut into 65535 steps. 64 KiB, made at first use, never destroyed.
const std::uint8_t* rank_table() {
  static const std::uint8_t* const table = [] {
    auto made = std::make_unique<std::uint8_t[]>(kRankSteps);
    const auto& map = detail::kDynamicMap;
    int code = 0;
    for (int i = 0; i < kRankSteps; ++i) {
      const float value = -1.0f + 2.0f * static_cast<float>(i) / static_cast<float>(kRankSteps - 1);
      while (code + 1 < kNestedCodes && 0.5f * (map[code] + map[code + 1]) < value) ++code;
      made[i] = static_cast<std::uint8_t>(code);
    }
    return made.release();
  }();
  return table;
}

}  // namespace

float mean_absmax(const float* absmax, std::int64_t count) {
  constexpr int kLanes = 8;  // torch sums in 256-bit vectors, also where 512 are to be had
  float sum = 0;
  if (count < kLanes) {
    cascade_sum<1>(absmax, count, &sum);
  } else {
    float lanes[kLanes];
    cascade_sum<kLanes>(absmax, count / kLanes, lanes);
    for (std::int64_t i = count / kLanes * kLanes; i < count; ++i) sum += absmax[i];
    for (float lane : lanes) sum += lane;
  }
  return sum / static_cast<float>(count);
}

void quantize_absmax(const float* absmax, std::int64_t count, float offset, std::uint8_t* codes, float* nested_absmax) {
  const std::uint8_t* table = rank_table();
  for (std::int64_t begin = 0; begin < count; begin += kNestedBlock) {
    const std::int64_t size = std::min<std::int64_t>(kNestedBlock, count - begin);
    const float* values = absmax + begin;
    float largest = 0;  // a NaN is passed over, as in bitsandbytes
    for (std::int64_t i = 0; i < size; ++i) {
      const float magnitude = std::fabs(values[i] - offset);
      largest = largest < magnitude ? magnitude : largest;
    }
    nested_absmax[begin / kNestedBlock] = largest;
    if (largest == 0) {
      std::memset(codes + begin, 0, static_cast<std::size_t>(size));
      continue;
    }
    const float inverse = 1.0f / largest;
    for (std::int64_t i = 0; i < size; ++i) {
      const float scaled = (values[i] - offset) * inverse;
      if (std::isnan(scaled)) {
        codes[begin + i] = 0;
        continue;
      }
      const float unit = (std::clamp(scaled, -1.0f, 1.0f) + 1.0f) * 0.5f;
      codes[begin + i] = table[static_cast<int>(std::fma(unit, static_cast<float>(kRankSteps - 1), 0.5f))];
    }
  }
}

void dequantize_absmax(const std::uint8_t* codes, const float* nested_absmax, float offset, std::int64_t count, float* absmax) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float scaled = detail::kDynamicMap[codes[i]] * nested_absmax[i / kNestedBlock];
    absmax[i] = scaled + offset;
  }
}

}  // namespace tenon::nf4
