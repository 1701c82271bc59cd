// The body of all kernel files: each compiles it for another instruction set, with vectors of 16 lanes that the compiler cuts to size.
// Everything here has internal linkage on purpose: the linker must never pick one file's copy for all of them.
#pragma once
#include <cstring>

#include "kernels.h"

#define TENON_GPTQ_INLINE static inline __attribute__((always_inline))

namespace tenon::gptq::detail {
namespace {

using F16 = float __attribute__((vector_size(64)));
using U16 = std::uint32_t __attribute__((vector_size(64)));
using I16 = std::int32_t __attribute__((vector_size(64)));
using B16 = std::uint8_t __attribute__((vector_size(16)));
using H16 = _Float16 __attribute__((vector_size(32)));
using S16 = std::uint16_t __attribute__((vector_size(32)));

constexpr std::int64_t kLanes = 16, kChunk = 32;

TENON_GPTQ_INLINE void load(const float* from, F16& to) { std::memcpy(&to, from, sizeof to); }
TENON_GPTQ_INLINE void store(float* to, const F16& from) { std::memcpy(to, &from, sizeof from); }

TENON_GPTQ_INLINE float half(std::uint16_t bits) {
  _Float16 value;
  std::memcpy(&value, &bits, sizeof value);
  return static_cast<float>(value);
}

TENON_GPTQ_INLINE float sum(const F16& v) {
  float total = 0;
  for (int i = 0; i < kLanes / 2; ++i) total += v[i] + v[i + 8];
  return total;
}

// Sixteen codes: those of `low` in the lower lanes, those of `high` in the upper ones.
template <int kBits>
TENON_GPTQ_INLINE void spread(std::uint32_t low, std::uint32_t high, F16& out) {
  constexpr U16 shift = {0, kBits, 2 * kBits, 3 * kBits, 4 * kBits, 5 * kBits, 6 * kBits, 7 * kBits,
                         0, kBits, 2 * kBits, 3 * kBits, 4 * kBits, 5 * kBits, 6 * kBits, 7 * kBits};
  // Not one list of sixteen values: the compiler would write that to memory and wait to read it again.
  constexpr I16 is_low = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
  const U16 both = is_low ? U16{} + low : U16{} + high;
  out = __builtin_convertvector((I16)((both >> shift) & ((1u << kBits) - 1)), F16);
}

// The 32 codes that begin at `words`, as floats.
template <int kBits>
TENON_GPTQ_INLINE void chunk(const std::uint32_t* words, F16& first, F16& second) {
  if constexpr (kBits == 2) {
    spread<2>(words[0], words[0] >> 16, first);
    spread<2>(words[1], words[1] >> 16, second);
  } else if constexpr (kBits == 3) {  // eight codes are three bytes
    spread<3>(words[0], words[0] >> 24 | words[1] << 8, first);
    spread<3>(words[1] >> 16 | words[2] << 16, words[2] >> 8, second);
  } else if constexpr (kBits == 4) {
    spread<4>(words[0], words[1], first);
    spread<4>(words[2], words[3], second);
  } else {
    B16 bytes[2];
    std::memcpy(bytes, words, sizeof bytes);
    first = __builtin_convertvector(__builtin_convertvector(bytes[0], I16), F16);
    second = __builtin_convertvector(__builtin_convertvector(bytes[1], I16), F16);
  }
}

// Calls body(k, first, second) with the dequantized values of each 32 columns of a row.
template <int kBits, class Body>
TENON_GPTQ_INLINE void for_each_chunk(const Weight& w, std::int64_t row, Body&& body) {
  const std::uint32_t* codes = w.codes + row * w.words();
  const std::uint16_t* scales = w.scales + row * w.groups();
  const std::uint8_t* zeros = w.zeros + row * w.groups();
  F16 first, second;
  if (w.group % kChunk != 0) {  // groups of 16, or of an odd multiple of it
    for (std::int64_t k = 0; k < w.cols; k += kChunk) {
      const std::int64_t a = k / w.group, b = (k + kLanes) / w.group;
      chunk<kBits>(codes + k / kChunk * kBits, first, second);
      first = (first - static_cast<float>(zeros[a])) * half(scales[a]);
      second = (second - static_cast<float>(zeros[b])) * half(scales[b]);
      body(k, first, second);
    }
    return;
  }
  std::int64_t k = 0;
  for (std::int64_t g = 0; k < w.cols; ++g) {
    const std::int64_t end = k + w.group < w.cols ? k + w.group : w.cols;
    const float scale = half(scales[g]), zero = static_cast<float>(zeros[g]);
    for (; k < end; k += kChunk) {
      chunk<kBits>(codes + k / kChunk * kBits, first, second);
      first = (first - zero) * scale;
      second = (second - zero) * scale;
      body(k, first, second);
    }
  }
}

TENON_GPTQ_INLINE void to_bf16(const float* from, std::int64_t count, std::uint16_t* to) {
  for (std::int64_t i = 0; i < count; i += kLanes) {  // nearest even; scales and codes are finite
    U16 bits;
    std::memcpy(&bits, from + i, sizeof bits);
    const S16 rounded = __builtin_convertvector((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, S16);
    std::memcpy(to + i, &rounded, sizeof rounded);
  }
}

TENON_GPTQ_INLINE void to_f16(const float* from, std::int64_t count, std::uint16_t* to) {
  for (std::int64_t i = 0; i < count; i += kLanes) {
    F16 value;
    load(from + i, value);
    const H16 rounded = __builtin_convertvector(value, H16);
    std::memcpy(to + i, &rounded, sizeof rounded);
  }
}

template <int kBits>
void dequantize_rows(const Weight& w, std::int64_t begin, std::int64_t end, Dtype dtype, void* out, float* scratch) {
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t at = (row - begin) * w.cols;
    float* dense = dtype == Dtype::F32 ? static_cast<float*>(out) + at : scratch;
    if (w.order == nullptr) {
      for_each_chunk<kBits>(w, row, [&](std::int64_t k, const F16& first, const F16& second) {
        store(dense + k, first);
        store(dense + k + kLanes, second);
      });
    } else {
      for_each_chunk<kBits>(w, row, [&](std::int64_t k, const F16& first, const F16& second) {
        for (int i = 0; i < kLanes; ++i) {
          dense[w.order[k + i]] = first[i];
          dense[w.order[k + kLanes + i]] = second[i];
        }
      });
    }
    if (dtype == Dtype::Bf16) to_bf16(dense, w.cols, static_cast<std::uint16_t*>(out) + at);
    if (dtype == Dtype::F16) to_f16(dense, w.cols, static_cast<std::uint16_t*>(out) + at);
  }
}

template <int kBits, int kRows>
TENON_GPTQ_INLINE void multiply_row(const Weight& w, const float* x, std::int64_t row, float* y) {
  F16 total[kRows][2];
  for (int i = 0; i < kRows; ++i) total[i][0] = total[i][1] = F16{};
  for_each_chunk<kBits>(w, row, [&](std::int64_t k, const F16& first, const F16& second) {
    for (int i = 0; i < kRows; ++i) {
      F16 a, b;
      load(x + i * w.cols + k, a);
      load(x + i * w.cols + k + kLanes, b);
      total[i][0] += a * first;
      total[i][1] += b * second;
    }
  });
  for (int i = 0; i < kRows; ++i) y[i * w.rows + row] = sum(total[i][0] + total[i][1]);
}

#if defined(__AVX512F__)
constexpr std::int64_t kMostRows = 8;  // two registers each
#else
constexpr std::int64_t kMostRows = 4;
#endif

template <int kBits>
void multiply_rows(const Weight& w, const float* x, std::int64_t m, std::int64_t begin, std::int64_t end, float* y) {
  for (std::int64_t row = begin; row < end; ++row) {
    std::int64_t i = 0;
    if constexpr (kMostRows == 8)
      for (; i + 8 <= m; i += 8) multiply_row<kBits, 8>(w, x + i * w.cols, row, y + i * w.rows);
    for (; i + 4 <= m; i += 4) multiply_row<kBits, 4>(w, x + i * w.cols, row, y + i * w.rows);
    switch (m - i) {
      case 1: multiply_row<kBits, 1>(w, x + i * w.cols, row, y + i * w.rows); break;
      case 2: multiply_row<kBits, 2>(w, x + i * w.cols, row, y + i * w.rows); break;
      case 3: multiply_row<kBits, 3>(w, x + i * w.cols, row, y + i * w.rows); break;
      default: break;
    }
  }
}

void dequantize(const Weight& w, std::int64_t begin, std::int64_t end, Dtype dtype, void* out, float* scratch) {
  switch (w.bits) {
    case 2: return dequantize_rows<2>(w, begin, end, dtype, out, scratch);
    case 3: return dequantize_rows<3>(w, begin, end, dtype, out, scratch);
    case 4: return dequantize_rows<4>(w, begin, end, dtype, out, scratch);
    default: return dequantize_rows<8>(w, begin, end, dtype, out, scratch);
  }
}

[[maybe_unused]] void multiply(const Weight& w, const float* x, std::int64_t m, std::int64_t begin, std::int64_t end, float* y) {
  switch (w.bits) {
    case 2: return multiply_rows<2>(w, x, m, begin, end, y);
    case 3: return multiply_rows<3>(w, x, m, begin, end, y);
    case 4: return multiply_rows<4>(w, x, m, begin, end, y);
    default: return multiply_rows<8>(w, x, m, begin, end, y);
  }
}

void range(const float* values, std::int64_t count, float& low, float& high) {
  low = high = values[0];
  std::int64_t i = 0;
  if (count >= kLanes) {
    F16 lowest, highest, v;
    load(values, lowest);
    highest = lowest;
    for (i = kLanes; i + kLanes <= count; i += kLanes) {
      load(values + i, v);
      lowest = v < lowest ? v : lowest;
      highest = v > highest ? v : highest;
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      low = lowest[lane] < low ? lowest[lane] : low;
      high = highest[lane] > high ? highest[lane] : high;
    }
  }
  for (; i < count; ++i) {
    low = values[i] < low ? values[i] : low;
    high = values[i] > high ? values[i] : high;
  }
}

// One column after another; what its rounding lost is taken from the columns behind it.
void quantize_tile(const Tile& t) {
  F16 columns[kBlockColumns];
  for (int row = 0; row < kTileRows; ++row)
    for (int c = 0; c < t.count; ++c) columns[c][row] = t.weight[row * t.stride + c];
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest even integer
  for (int c = 0; c < t.count; ++c) {
    F16 scale, zero;
    load(t.scales + t.group[c] * kTileRows, scale);
    load(t.zeros + t.group[c] * kTileRows, zero);
    const F16 w = columns[c], limit = F16{} + 65536.0f;
    F16 code = w / scale;
    code = code > limit ? limit : code;
    code = code < -limit ? -limit : code;
    code = (code + kRound) - kRound + zero;
    const F16 least = F16{}, most = F16{} + t.max_code;
    code = code < least ? least : code;
    code = code > most ? most : code;
    const B16 bytes = __builtin_convertvector(__builtin_convertvector(code, I16), B16);
    for (int row = 0; row < kTileRows; ++row) t.codes[row * t.codes_stride + c] = bytes[row];
    if (t.factor == nullptr) continue;
    const float* factor = t.factor + c * t.factor_stride;
    const F16 error = (w - (code - zero) * scale) / factor[c];
    for (int row = 0; row < kTileRows; ++row) t.errors[row * t.errors_stride + c] = error[row];
    for (int next = c + 1; next < t.count; ++next) columns[next] -= error * factor[next];
  }
}

}  // namespace
}  // namespace tenon::gptq::detail
