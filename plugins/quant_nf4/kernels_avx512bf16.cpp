// AVX-512 with BF16: as AVX-512, but bfloat16 activations meet bfloat16 codes in pairs. Products are exact and sums float32;
// what is lost is the rounding of the 16 code values.
#include "kernels_avx512.h"
#include "kernels_internal.h"

namespace tenon::nf4::detail {
namespace {

// 128 codes are 32 words; shifted by 4j, each word's low nibble is element 4 * word + (j ^ 1).
struct Bf16Step {
  using Activation = std::uint16_t;
  static constexpr int kVectors = 4;
  static constexpr int kRowsAlone = 4;  // rows of the weight at once when x has one row
  static constexpr int kTile = 8;
  using Vector = __m512bh;
  __m512i values;
  float factor;

  explicit Bf16Step(Codebook codebook) {
    // The codes may be scaled before they are rounded, and the sum scaled back. FP4 becomes exact; for NF4 a search over
    // [1, 2) found the scale whose error, weighted by how often normal weights use each code, is least: 0.0008 of the
    // weights' size, against 0.0014 unscaled and 0.0011 for weights that are each rounded to bfloat16.
    const float scale = codebook == Codebook::Nf4 ? 1.4367142f : 1.5f;
    std::uint16_t rounded[32];  // twice the 16 values, as the permutation looks at five bits of an index
    for (int c = 0; c < 32; ++c) rounded[c] = to_bf16(values_of(codebook)[static_cast<std::size_t>(c % kCodes)] * scale);
    values = _mm512_loadu_si512(rounded);
    factor = 1.0f / scale;
  }
  Vector look_up(__m512i codes, int j) const {
    return (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(codes, static_cast<unsigned>(4 * j)), values);
  }
  static __m512 start(Vector a, const std::uint16_t* x) { return add(_mm512_setzero_ps(), a, x); }
  static __m512 add(__m512 sum, Vector a, const std::uint16_t* x) { return _mm512_dpbf16_ps(sum, a, (__m512bh)_mm512_load_si512(x)); }
};

// x as [group][m][j][word], zero beyond the last column.
void pack_bf16(const std::uint16_t* x, std::int64_t m, std::int64_t cols, std::int64_t stride, std::uint16_t* packed) {
  alignas(64) std::uint16_t take[4][32];  // output j takes word 4i + (j ^ 1) of 128; here of 64, by the low six bits
  for (int j = 0; j < 4; ++j) {
    for (int i = 0; i < 32; ++i) take[j][i] = static_cast<std::uint16_t>((4 * i + (j ^ 1)) % 64);
  }
  const std::int64_t groups = group_count(cols);
  for (std::int64_t g = 0; g < groups; ++g) {
    for (std::int64_t r = 0; r < m; ++r) {
      const std::uint16_t* from = x + r * stride + g * kGroup;
      std::uint16_t* out = packed + (g * m + r) * kGroup;
      __m512i part[4];
      for (int p = 0; p < 4; ++p) {
        const std::int64_t left = cols - g * kGroup - 32 * p;  // a multiple of 32
        part[p] = left > 0 ? _mm512_loadu_si512(from + 32 * p) : _mm512_setzero_si512();
      }
      for (int j = 0; j < 4; ++j) {
        const __m512i index = _mm512_load_si512(take[j]);
        const __m512i low = _mm512_permutex2var_epi16(part[0], index, part[1]);
        const __m512i high = _mm512_permutex2var_epi16(part[2], index, part[3]);
        _mm512_store_si512(out + 32 * j, _mm512_mask_mov_epi16(low, 0xffff0000u, high));
      }
    }
  }
}

bool in_bf16(const Weight& weight, Dtype x_dtype) { return x_dtype == Dtype::Bf16 && rows_begin_blocks(weight); }

std::size_t activation_bytes(const Weight& weight, Dtype x_dtype, std::int64_t m) {
  if (!in_bf16(weight, x_dtype)) return avx512_activation_bytes(weight, x_dtype, m);
  return static_cast<std::size_t>(group_count(weight.cols) * kGroup * m) * sizeof(std::uint16_t);
}

void pack_activation(const Weight& weight, const void* x, Dtype x_dtype, std::int64_t m, std::int64_t stride, void* packed) {
  if (!in_bf16(weight, x_dtype)) return avx512_pack_activation(weight, x, x_dtype, m, stride, packed);
  pack_bf16(static_cast<const std::uint16_t*>(x), m, weight.cols, stride, static_cast<std::uint16_t*>(packed));
}

void multiply(const Weight& weight, const void* packed, Dtype x_dtype, std::int64_t m, std::int64_t row_begin, std::int64_t row_end,
              void* y, Dtype y_dtype, std::int64_t y_stride) {
  if (!in_bf16(weight, x_dtype)) {
    return avx512_multiply(weight, packed, x_dtype, m, row_begin, row_end, y, y_dtype, y_stride);
  }
  multiply_groups<Bf16Step>(weight, static_cast<const std::uint16_t*>(packed), m, row_begin, row_end, y, y_dtype, y_stride);
}

}  // namespace

const Kernels& avx512bf16_kernels() {
  static const Kernels table = {"avx512bf16",     avx512_kernels().quantize, avx512_kernels().dequantize,
                                activation_bytes, pack_activation,           multiply};
  return table;
}

}  // namespace tenon::nf4::detail
