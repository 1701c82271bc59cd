// AVX2 with FMA and F16C.
#include <immintrin.h>

#include "kernels_internal.h"

namespace tenon::nf4::detail {
namespace {

constexpr std::int64_t kGroup = 64;  // codes that one 32-byte load brings

// ---- quantize ----

template <Dtype kDtype>
inline __m256 load8(const void* source, std::int64_t i) {
  if constexpr (kDtype == Dtype::F32) {
    return _mm256_loadu_ps(static_cast<const float*>(source) + i);
  } else {
    const auto* at = static_cast<const std::uint16_t*>(source) + i;
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    if constexpr (kDtype == Dtype::F16) return _mm256_cvtph_ps(halves);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
}

// Largest magnitude by comparing bits as integers: a NaN is above infinity and shows in the result.
template <Dtype kDtype>
inline float largest_magnitude(const void* source, std::int64_t begin, std::int64_t count) {
  __m256i largest = _mm256_setzero_si256();
  for (std::int64_t i = 0; i < count; i += 8) {
    const __m256i bits = _mm256_castps_si256(load8<kDtype>(source, begin + i));
    largest = _mm256_max_epi32(largest, _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff)));
  }
  __m128i half = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1));
  return std::bit_cast<float>(_mm_cvtsi128_si32(half));
}

// Minus the rank: every comparison that holds is minus one.
template <Codebook kCodebook>
inline __m256i negative_rank(__m256 scaled) {
  constexpr const Ranks& kRanks = ranks_of(kCodebook);
  __m256i even = _mm256_setzero_si256();
  __m256i odd = _mm256_setzero_si256();
  auto above = [&](std::size_t i) { return _mm256_castps_si256(_mm256_cmp_ps(scaled, _mm256_set1_ps(kRanks.bounds[i]), _CMP_GT_OQ)); };
  for (std::size_t i = 0; i + 2 < kCodes; i += 2) {
    even = _mm256_add_epi32(even, above(i));
    odd = _mm256_add_epi32(odd, above(i + 1));
  }
  return _mm256_add_epi32(_mm256_add_epi32(even, above(kCodes - 2)), odd);
}

// 32 codes, in order, to 16 bytes.
template <Codebook kCodebook, Dtype kDtype>
inline __m128i encode32(const void* source, std::int64_t i, __m256 factor) {
  auto ranks = [&](std::int64_t at) { return negative_rank<kCodebook>(_mm256_mul_ps(load8<kDtype>(source, i + at), factor)); };
  const __m256i first = _mm256_packs_epi32(ranks(0), ranks(8));
  const __m256i second = _mm256_packs_epi32(ranks(16), ranks(24));
  __m256i bytes = _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_packs_epi16(first, second));
  bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  if constexpr (kCodebook == Codebook::Fp4) {
    const auto* by_rank = reinterpret_cast<const __m128i*>(ranks_of(kCodebook).by_rank.data());
    bytes = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(by_rank)), bytes);
  }
  const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi16(0x0110));  // 16 * even + odd
  return _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
}

template <Codebook kCodebook, Dtype kDtype>
void quantize_all(const void* source, std::int64_t count, std::int32_t block, std::uint8_t* codes, float* absmax) {
  const std::int64_t full = count / block * block;
  constexpr std::int64_t kElement = kDtype == Dtype::F32 ? 4 : 2;
  auto by_portable = [&](std::int64_t begin, std::int64_t size) {
    portable_kernels().quantize(static_cast<const char*>(source) + begin * kElement, kDtype, size, kCodebook, block, codes + begin / 2,
                                absmax + begin / block);
  };
  for (std::int64_t begin = 0; begin < full; begin += block) {
    const float largest = largest_magnitude<kDtype>(source, begin, block);
    if (std::bit_cast<std::uint32_t>(largest) >= kInfinityBits) {
      by_portable(begin, block);  // infinities and NaN take codes that a scale cannot express
      continue;
    }
    absmax[begin / block] = largest;
    const __m256 factor = _mm256_set1_ps(1.0f / (largest < kLeastAbsmax ? kLeastAbsmax : largest));
    for (std::int64_t i = begin; i < begin + block; i += 32) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i / 2), encode32<kCodebook, kDtype>(source, i, factor));
    }
  }
  if (full < count) by_portable(full, count - full);
}

template <Codebook kCodebook>
void quantize_from(const void* source, Dtype dtype, std::int64_t count, std::int32_t block, std::uint8_t* codes, float* absmax) {
  switch (dtype) {
    case Dtype::F32: return quantize_all<kCodebook, Dtype::F32>(source, count, block, codes, absmax);
    case Dtype::Bf16: return quantize_all<kCodebook, Dtype::Bf16>(source, count, block, codes, absmax);
    case Dtype::F16: return quantize_all<kCodebook, Dtype::F16>(source, count, block, codes, absmax);
  }
}

void quantize(const void* source, Dtype dtype, std::int64_t count, Codebook codebook, std::int32_t block, std::uint8_t* codes,
              float* absmax) {
  if (codebook == Codebook::Nf4) return quantize_from<Codebook::Nf4>(source, dtype, count, block, codes, absmax);
  return quantize_from<Codebook::Fp4>(source, dtype, count, block, codes, absmax);
}

// ---- dequantize: a block has 16 values; scale and round those once, then only look up ----

// A table of 16 floats in two registers; `high` has its sign bit from bit 3 of the index.
struct Table16 {
  __m256 low, high;
  __m256 look_up(__m256i index, __m256i bit3_as_sign) const {
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index), _mm256_castsi256_ps(bit3_as_sign));
  }
};

inline void write_float32(const Table16& table, const std::uint8_t* codes, std::int32_t count, float* out) {
  for (std::int32_t k = 0; k < count; k += 8) {
    std::uint32_t four;
    __builtin_memcpy(&four, codes + k / 2, sizeof four);
    const __m256i bytes = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(static_cast<int>(four)));
    const __m256i index = _mm256_or_si256(_mm256_srli_epi64(bytes, 4), _mm256_slli_epi64(bytes, 32));
    _mm256_storeu_ps(out + k, table.look_up(index, _mm256_slli_epi32(index, 28)));
  }
}

template <Dtype kDtype>
inline __m128i round8(__m256 values) {
  if constexpr (kDtype == Dtype::F16) return _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
  rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), is_nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}

// Halves from two tables of bytes.
inline void write_halves(__m128i first, __m128i second, const std::uint8_t* codes, std::int32_t count, std::uint16_t* out) {
  const __m128i low_byte = _mm_set1_epi16(0xff);
  const __m128i low = _mm_packus_epi16(_mm_and_si128(first, low_byte), _mm_and_si128(second, low_byte));
  const __m128i high = _mm_packus_epi16(_mm_srli_epi16(first, 8), _mm_srli_epi16(second, 8));
  const __m128i nibble = _mm_set1_epi8(15);
  auto write16 = [&](__m128i index, std::uint16_t* to) {
    const __m128i lows = _mm_shuffle_epi8(low, index);
    const __m128i highs = _mm_shuffle_epi8(high, index);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_unpacklo_epi8(lows, highs));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 8), _mm_unpackhi_epi8(lows, highs));
  };
  for (std::int32_t k = 0; k < count; k += 32) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + k / 2));
    const __m128i even = _mm_and_si128(_mm_srli_epi16(bytes, 4), nibble);
    const __m128i odd = _mm_and_si128(bytes, nibble);
    write16(_mm_unpacklo_epi8(even, odd), out + k);
    write16(_mm_unpackhi_epi8(even, odd), out + k + 16);
  }
}

template <Dtype kDtype, class Out>
void dequantize_all(const Weight& weight, std::int64_t begin, std::int64_t count, Out* out) {
  const std::array<float, kCodes>& values = values_of(weight.codebook);
  const int shift = log2_of(weight.block);
  const std::int64_t end = begin + count;
  std::int64_t i = begin;
  auto by_portable = [&](std::int64_t stop) {
    portable_kernels().dequantize(weight, i, stop - i, kDtype, out);
    out += stop - i;
    i = stop;
  };
  const std::int64_t first_full = ((begin + weight.block - 1) >> shift) << shift;
  if (i < first_full) by_portable(first_full < end ? first_full : end);
  for (; i + weight.block <= end; i += weight.block, out += weight.block) {
    const __m256 absmax = _mm256_set1_ps(block_absmax(weight, i >> shift));
    const __m256 low = _mm256_mul_ps(_mm256_loadu_ps(values.data()), absmax);
    const __m256 high = _mm256_mul_ps(_mm256_loadu_ps(values.data() + 8), absmax);
    if constexpr (kDtype == Dtype::F32) {
      write_float32(Table16{low, high}, weight.codes + i / 2, weight.block, out);
    } else {
      write_halves(round8<kDtype>(low), round8<kDtype>(high), weight.codes + i / 2, weight.block, out);
    }
  }
  if (i < end) by_portable(end);
}

void dequantize(const Weight& weight, std::int64_t begin, std::int64_t count, Dtype dtype, void* out) {
  switch (dtype) {
    case Dtype::F32: return dequantize_all<Dtype::F32>(weight, begin, count, static_cast<float*>(out));
    case Dtype::Bf16: return dequantize_all<Dtype::Bf16>(weight, begin, count, static_cast<std::uint16_t*>(out));
    case Dtype::F16: return dequantize_all<Dtype::F16>(weight, begin, count, static_cast<std::uint16_t*>(out));
  }
}

// ---- multiply: 64 codes are 8 dwords; shifted by 4j, each dword's low nibble is element 8 * dword + (j ^ 1) ----

inline float sum_lanes(__m256 v) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}

float dot(const float* a, const float* b, std::int64_t count) {
  __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
  std::int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    for (int s = 0; s < 4; ++s) {
      sums[s] = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8 * s), _mm256_loadu_ps(b + i + 8 * s), sums[s]);
    }
  }
  float rest = 0;
  for (; i < count; ++i) rest += a[i] * b[i];
  return sum_lanes(_mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]))) + rest;
}

std::int64_t group_count(std::int64_t cols) { return (cols + kGroup - 1) / kGroup; }

std::size_t activation_bytes(const Weight& weight, Dtype, std::int64_t m) {
  if (!rows_begin_blocks(weight)) return plain_activation_bytes(weight.cols, m);
  return static_cast<std::size_t>(group_count(weight.cols) * kGroup * m) * sizeof(float);
}

// x as [group][m][j][dword], zero beyond the last column.
void pack_activation(const Weight& weight, const void* x, Dtype dtype, std::int64_t m, std::int64_t stride, void* packed) {
  auto* out = static_cast<float*>(packed);
  if (!rows_begin_blocks(weight)) return pack_plain_activation(x, dtype, m, weight.cols, stride, out);
  for (std::int64_t g = 0; g < group_count(weight.cols); ++g) {
    for (std::int64_t r = 0; r < m; ++r, out += kGroup) {
      float plain[kGroup];
      for (std::int64_t i = 0; i < kGroup; ++i) {
        const std::int64_t k = g * kGroup + i;
        plain[i] = k < weight.cols ? load_element(x, dtype, r * stride + k) : 0.0f;
      }
      for (int j = 0; j < 8; ++j) {
        for (int i = 0; i < 8; ++i) out[8 * j + i] = plain[8 * i + (j ^ 1)];
      }
    }
  }
}

// One row of the weight with kM rows of x.
template <bool kTwoBlocks, int kM>
void multiply_row(const Weight& weight, const float* x, std::int64_t m, std::int64_t m0, std::int64_t n, void* y, Dtype y_dtype,
                  std::int64_t y_stride) {
  const float* values = values_of(weight.codebook).data();
  const Table16 table{_mm256_loadu_ps(values), _mm256_loadu_ps(values + 8)};
  const std::int64_t cols = weight.cols;
  const int shift = log2_of(weight.block);
  const std::uint8_t* codes = weight.codes + n * (cols / 2);
  const std::int64_t first = n * (cols >> shift);
  __m256 sums[kM];
  for (auto& sum : sums) sum = _mm256_setzero_ps();
  const float* at = x + m0 * kGroup;
  auto group = [&](__m256i loaded, __m256 scale) {
    __m256 expanded[8];
    for (int j = 0; j < 8; ++j) expanded[j] = table.look_up(_mm256_srli_epi32(loaded, 4 * j), _mm256_slli_epi32(loaded, 28 - 4 * j));
    for (int i = 0; i < kM; ++i) {
      __m256 sum = _mm256_mul_ps(expanded[0], _mm256_loadu_ps(at + i * kGroup));
      for (int j = 1; j < 8; ++j) sum = _mm256_fmadd_ps(expanded[j], _mm256_loadu_ps(at + i * kGroup + 8 * j), sum);
      sums[i] = _mm256_fmadd_ps(sum, scale, sums[i]);
    }
    at += m * kGroup;
  };
  std::int64_t k = 0;
  for (; k + kGroup <= cols; k += kGroup) {
    const std::int64_t block = first + (k >> shift);
    __m256 scale = _mm256_set1_ps(block_absmax(weight, block));
    if constexpr (kTwoBlocks) scale = _mm256_blend_ps(scale, _mm256_set1_ps(block_absmax(weight, block + 1)), 0xf0);
    const std::uint8_t* from = codes + k / 2;
    _mm_prefetch(reinterpret_cast<const char*>(from) + cols / 2, _MM_HINT_T1);  // the next row
    group(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)), scale);
  }
  if (k < cols) {  // a last block of 32
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + k / 2));
    const __m256 scale = _mm256_set1_ps(block_absmax(weight, first + (k >> shift)));
    group(_mm256_zextsi128_si256(half), _mm256_blend_ps(scale, _mm256_setzero_ps(), 0xf0));
  }
  for (int i = 0; i < kM; ++i) store_element(y, y_dtype, (m0 + i) * y_stride + n, sum_lanes(sums[i]));
}

template <bool kTwoBlocks>
void multiply_range(const Weight& weight, const float* x, std::int64_t m, std::int64_t row_begin, std::int64_t row_end, void* y,
                    Dtype y_dtype, std::int64_t y_stride) {
  for (std::int64_t n = row_begin; n < row_end; ++n) {
    std::int64_t m0 = 0;
    for (; m0 + 4 <= m; m0 += 4) multiply_row<kTwoBlocks, 4>(weight, x, m, m0, n, y, y_dtype, y_stride);
    for (; m0 < m; ++m0) multiply_row<kTwoBlocks, 1>(weight, x, m, m0, n, y, y_dtype, y_stride);
  }
}

void multiply(const Weight& weight, const void* packed, Dtype, std::int64_t m, std::int64_t row_begin, std::int64_t row_end, void* y,
              Dtype y_dtype, std::int64_t y_stride) {
  const auto* x = static_cast<const float*>(packed);
  if (!rows_begin_blocks(weight)) {
    return multiply_plain(weight, dequantize, dot, x, m, row_begin, row_end, y, y_dtype, y_stride);
  }
  if (weight.block == 32) return multiply_range<true>(weight, x, m, row_begin, row_end, y, y_dtype, y_stride);
  multiply_range<false>(weight, x, m, row_begin, row_end, y, y_dtype, y_stride);
}

constexpr Kernels kKernels = {"avx2", quantize, dequantize, activation_bytes, pack_activation, multiply};

}  // namespace

const Kernels& avx2_kernels() { return kKernels; }

}  // namespace tenon::nf4::detail
