// AVX-512 (F, BW, DQ, VL): 16 codes looked up by one permutation.
#include "kernels_avx512.h"
#include "kernels_internal.h"

namespace tenon::nf4::detail {
namespace {

// ---- quantize ----

template <Dtype kDtype>
inline __m512 load16(const void* source, std::int64_t i) {
  if constexpr (kDtype == Dtype::F32) {
    return _mm512_loadu_ps(static_cast<const float*>(source) + i);
  } else {
    const auto* at = static_cast<const std::uint16_t*>(source) + i;
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    if constexpr (kDtype == Dtype::F16) return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
}

// Largest magnitude by comparing bits as integers: a NaN is above infinity and shows in the result.
template <Dtype kDtype>
inline float largest_magnitude(const void* source, std::int64_t begin, std::int64_t count) {
  if constexpr (kDtype == Dtype::F32) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    const auto* at = static_cast<const float*>(source) + begin;
    __m512i largest = _mm512_setzero_si512();
    for (std::int64_t i = 0; i < count; i += 16) {
      largest = _mm512_max_epi32(largest, _mm512_and_si512(_mm512_loadu_si512(at + i), magnitude));
    }
    return std::bit_cast<float>(_mm512_reduce_max_epi32(largest));
  } else {
    const __m512i magnitude = _mm512_set1_epi16(0x7fff);
    const auto* at = static_cast<const std::uint16_t*>(source) + begin;
    __m512i largest = _mm512_setzero_si512();
    for (std::int64_t i = 0; i < count; i += 32) {
      largest = _mm512_max_epu16(largest, _mm512_and_si512(_mm512_loadu_si512(at + i), magnitude));
    }
    const __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(largest), _mm512_extracti64x4_epi64(largest, 1));
    const __m128i quarter = _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    // There is an instruction for the least of eight words, so look for the least complement.
    const __m128i least = _mm_minpos_epu16(_mm_xor_si128(quarter, _mm_set1_epi16(-1)));
    const auto bits = static_cast<std::uint16_t>(~_mm_extract_epi16(least, 0));
    return kDtype == Dtype::Bf16 ? from_bf16(bits) : _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
  }
}

template <Codebook kCodebook>
struct Encoder {
  static constexpr const Ranks& kRanks = ranks_of(kCodebook);
  __m512 bound_low = _mm512_loadu_ps(kRanks.cell_bound.data());
  __m512 bound_high = _mm512_loadu_ps(kRanks.cell_bound.data() + 16);
  __m512i base_low = _mm512_loadu_si512(kRanks.cell_base.data());
  __m512i base_high = _mm512_loadu_si512(kRanks.cell_base.data() + 16);
  __m128i by_rank = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kRanks.by_rank.data()));

  __m512i rank(__m512 scaled) const {
    const __m512i one = _mm512_set1_epi32(1);
    const __m512i cell = _mm512_cvttps_epi32(_mm512_fmadd_ps(scaled, _mm512_set1_ps(kCellScale), _mm512_set1_ps(kCellShift)));
    __m512i rank = _mm512_permutex2var_epi32(base_low, cell, base_high);
    const __m512 bound = _mm512_permutex2var_ps(bound_low, cell, bound_high);
    rank = _mm512_mask_add_epi32(rank, _mm512_cmp_ps_mask(scaled, bound, _CMP_GT_OQ), rank, one);
    if constexpr (kRanks.has_extra) {
      const __mmask16 above = _mm512_cmp_ps_mask(scaled, _mm512_set1_ps(kRanks.extra), _CMP_GT_OQ);
      rank = _mm512_mask_add_epi32(rank, above, rank, one);
    }
    return rank;
  }

  // 32 ranks, in order, to 16 bytes.
  __m128i pack(__m512i first, __m512i second) const {
    __m512i words = _mm512_packs_epi32(first, second);
    if constexpr (kCodebook == Codebook::Fp4) {
      const __m512i codes = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(by_rank), words);
      words = _mm512_and_si512(codes, _mm512_set1_epi16(15));
    }
    const __m512i pairs = _mm512_madd_epi16(words, _mm512_set1_epi32(0x00010010));  // 16 * even + odd
    // Each group of four bytes now has two of `first`, then two of `second`.
    const __m128i mixed = _mm512_cvtepi32_epi8(pairs);
    return _mm_shuffle_epi8(mixed, _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
  }
};

template <Codebook kCodebook, Dtype kDtype>
void quantize_all(const void* source, std::int64_t count, std::int32_t block, std::uint8_t* codes, float* absmax) {
  const Encoder<kCodebook> encoder;
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
    const __m512 factor = _mm512_set1_ps(1.0f / (largest < kLeastAbsmax ? kLeastAbsmax : largest));
    for (std::int64_t i = begin; i < begin + block; i += 32) {
      const __m512i first = encoder.rank(_mm512_mul_ps(load16<kDtype>(source, i), factor));
      const __m512i second = encoder.rank(_mm512_mul_ps(load16<kDtype>(source, i + 16), factor));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i / 2), encoder.pack(first, second));
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

inline __m256i round_to_bf16(__m512 values) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
  const __mmask16 is_nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
  rounded = _mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7fc0));
  return _mm512_cvtepi32_epi16(rounded);
}

struct Float32Table {
  static constexpr int kStep = 16;
  __m512 values;
  explicit Float32Table(__m512 scaled) : values(scaled) {}
  void write(const std::uint8_t* codes, float* out) const {  // 8 bytes: a byte to each 64-bit lane, then its two nibbles
    const __m512i bytes = _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
    const __m512i index = _mm512_or_si512(_mm512_srli_epi64(bytes, 4), _mm512_slli_epi64(bytes, 32));
    _mm512_storeu_ps(out, _mm512_permutexvar_ps(index, values));  // looks at four bits of an index
  }
};

template <Dtype kDtype>
struct HalfTable {
  static constexpr int kStep = 32;
  __m512i values;
  explicit HalfTable(__m512 scaled) {
    __m256i halves;
    if constexpr (kDtype == Dtype::Bf16) {
      halves = round_to_bf16(scaled);
    } else {
      halves = _mm512_cvtps_ph(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
    values = _mm512_broadcast_i64x4(halves);  // twice, as the permutation looks at five bits of an index
  }
  void write(const std::uint8_t* codes, std::uint16_t* out) const {
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
    const __m512i index = _mm512_or_si512(_mm512_srli_epi32(bytes, 4), _mm512_slli_epi32(bytes, 16));
    _mm512_storeu_si512(out, _mm512_permutexvar_epi16(index, values));
  }
};

template <Dtype kDtype, class Table, class Out>
void dequantize_all(const Weight& weight, std::int64_t begin, std::int64_t count, Out* out) {
  const __m512 values = _mm512_loadu_ps(values_of(weight.codebook).data());
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
    const Table table(_mm512_mul_ps(values, _mm512_set1_ps(block_absmax(weight, i >> shift))));
    const std::uint8_t* codes = weight.codes + i / 2;
    for (std::int32_t k = 0; k < weight.block; k += Table::kStep) table.write(codes + k / 2, out + k);
  }
  if (i < end) by_portable(end);
}

void dequantize(const Weight& weight, std::int64_t begin, std::int64_t count, Dtype dtype, void* out) {
  auto* halves = static_cast<std::uint16_t*>(out);
  switch (dtype) {
    case Dtype::F32: return dequantize_all<Dtype::F32, Float32Table>(weight, begin, count, static_cast<float*>(out));
    case Dtype::Bf16: return dequantize_all<Dtype::Bf16, HalfTable<Dtype::Bf16>>(weight, begin, count, halves);
    case Dtype::F16: return dequantize_all<Dtype::F16, HalfTable<Dtype::F16>>(weight, begin, count, halves);
  }
}

// ---- multiply in float32: 128 codes are 16 dwords; shifted by 4j, each dword's low nibble is element 8 * dword + (j ^ 1) ----

struct Float32Step {
  using Activation = float;
  static constexpr int kVectors = 8;
  static constexpr int kRowsAlone = 4;  // rows of the weight at once when x has one row
  static constexpr int kTile = 4;
  using Vector = __m512;
  static constexpr float factor = 1.0f;
  __m512 values;
  explicit Float32Step(Codebook codebook) : values(_mm512_loadu_ps(values_of(codebook).data())) {}

  Vector look_up(__m512i codes, int j) const {
    return _mm512_permutexvar_ps(_mm512_srli_epi32(codes, static_cast<unsigned>(4 * j)), values);
  }
  static __m512 start(Vector a, const float* x) { return _mm512_mul_ps(a, _mm512_load_ps(x)); }
  static __m512 add(__m512 sum, Vector a, const float* x) { return _mm512_fmadd_ps(a, _mm512_load_ps(x), sum); }
};

float dot(const float* a, const float* b, std::int64_t count) {
  __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  std::int64_t i = 0;
  for (; i + 64 <= count; i += 64) {
    for (int s = 0; s < 4; ++s) {
      sums[s] = _mm512_fmadd_ps(_mm512_loadu_ps(a + i + 16 * s), _mm512_loadu_ps(b + i + 16 * s), sums[s]);
    }
  }
  for (; i < count; i += 16) {
    const __mmask16 live = count - i >= 16 ? 0xffff : static_cast<__mmask16>((1u << (count - i)) - 1);
    sums[0] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(live, a + i), _mm512_maskz_loadu_ps(live, b + i), sums[0]);
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}

// x as [group][m][j][dword], zero beyond the last column.
void pack_float32(const void* x, Dtype dtype, std::int64_t m, std::int64_t cols, std::int64_t stride, float* packed) {
  const std::int64_t groups = group_count(cols);
  const __m512i every_eighth =
      _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(8));
  alignas(64) float plain[kGroup];
  for (std::int64_t g = 0; g < groups; ++g) {
    for (std::int64_t r = 0; r < m; ++r) {
      const std::int64_t begin = r * stride + g * kGroup;
      const std::int64_t size = cols - g * kGroup < kGroup ? cols - g * kGroup : kGroup;
      std::int64_t i = 0;
      for (; i + 16 <= size; i += 16) {  // size is a multiple of 32
        __m512 values;
        switch (dtype) {
          case Dtype::F32: values = load16<Dtype::F32>(x, begin + i); break;
          case Dtype::Bf16: values = load16<Dtype::Bf16>(x, begin + i); break;
          case Dtype::F16: values = load16<Dtype::F16>(x, begin + i); break;
        }
        _mm512_store_ps(plain + i, values);
      }
      for (; i < kGroup; i += 16) _mm512_store_ps(plain + i, _mm512_setzero_ps());
      float* out = packed + (g * m + r) * kGroup;
      for (int j = 0; j < 8; ++j) _mm512_store_ps(out + 16 * j, _mm512_i32gather_ps(every_eighth, plain + (j ^ 1), 4));
    }
  }
}

constexpr Kernels kKernels = {"avx512", quantize, dequantize, avx512_activation_bytes, avx512_pack_activation, avx512_multiply};

}  // namespace

std::size_t avx512_activation_bytes(const Weight& weight, Dtype, std::int64_t m) {
  if (!rows_begin_blocks(weight)) return plain_activation_bytes(weight.cols, m);
  return static_cast<std::size_t>(group_count(weight.cols) * kGroup * m) * sizeof(float);
}

void avx512_pack_activation(const Weight& weight, const void* x, Dtype dtype, std::int64_t m, std::int64_t stride, void* packed) {
  auto* out = static_cast<float*>(packed);
  if (!rows_begin_blocks(weight)) return pack_plain_activation(x, dtype, m, weight.cols, stride, out);
  pack_float32(x, dtype, m, weight.cols, stride, out);
}

void avx512_multiply(const Weight& weight, const void* packed, Dtype, std::int64_t m, std::int64_t row_begin, std::int64_t row_end, void* y,
                     Dtype y_dtype, std::int64_t y_stride) {
  const auto* x = static_cast<const float*>(packed);
  if (!rows_begin_blocks(weight)) {
    return multiply_plain(weight, dequantize, dot, x, m, row_begin, row_end, y, y_dtype, y_stride);
  }
  multiply_groups<Float32Step>(weight, x, m, row_begin, row_end, y, y_dtype, y_stride);
}

const Kernels& avx512_kernels() { return kKernels; }

}  // namespace tenon::nf4::detail
