#pragma once
// Products of many rows. The weight is packed first, panel by panel, so that one instruction multiplies the codes of as many outputs as a register has
// lanes, four along the sum: what packing costs is shared by all rows. Included by kernels_body.h where kernels_<isa>.cpp has defined
// TENON_INT8_PACKS; then Isa also has
//
//   static constexpr std::int64_t kTileRows;          // rows of activations taken together; even
//   static Codes packed(const std::uint8_t*);         // from an aligned address
//   static Codes broadcast(const std::int8_t*);       // four codes, in every lane
//   static void store(std::int32_t*, const Sum&);     // one sum a lane
//
// A panel is [depth / 4][kPanel outputs][4] codes + 128 (Isa::kShifted). Behind the ends of the sum lies anything: codes of
// activations are zeros there. Behind the last output too: its sums are not taken.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace tenon::int8 {
namespace {

constexpr std::int64_t kPanel = 2 * Isa::kBytes / 4;  // outputs of a panel: two registers of sums
constexpr std::int64_t kPanels = 2;                   // packed together: 64 codes beside each other are one line of the cache

static_assert(Isa::kShifted && Isa::kTileRows % 2 == 0);

template <std::int64_t N>
struct Count {
  static constexpr std::int64_t value = N;
};

constexpr std::int64_t packed_bytes(std::int64_t depth) { return (depth + 3) / 4 * 4 * kPanel * kPanels + 64; }

// Rows [first, first + count) of the weight; the sum goes along its columns. Sixteen codes of four rows at a time, as a matrix of 4 x 4 words.
TENON_INT8_INLINE void pack_rows(const Weight& weight, std::int64_t first, std::int64_t count, std::uint8_t* out) {
  const std::int64_t cols = weight.cols, whole = count == kPanel ? cols / 16 * 16 : 0;
  constexpr std::int64_t kStretch = 64;  // of four rows before the next
  const __m128i shift = _mm_set1_epi8(-128);
  for (std::int64_t c = 0; c < whole; c += kStretch) {
    const std::int64_t stop = c + kStretch < whole ? c + kStretch : whole;
    for (std::int64_t j = 0; j < kPanel; j += 4) {
      const std::int8_t* from = weight.codes + (first + j) * cols;
      for (std::int64_t k = c; k < stop; k += 16) {
        const auto row = [&](std::int64_t r) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + r * cols + k)); };
        const __m128i a = row(0), b = row(1), d = row(2), e = row(3);
        const __m128i ab_low = _mm_unpacklo_epi32(a, b), ab_high = _mm_unpackhi_epi32(a, b);
        const __m128i de_low = _mm_unpacklo_epi32(d, e), de_high = _mm_unpackhi_epi32(d, e);
        const __m128i words[4] = {_mm_unpacklo_epi64(ab_low, de_low), _mm_unpackhi_epi64(ab_low, de_low),
                                  _mm_unpacklo_epi64(ab_high, de_high), _mm_unpackhi_epi64(ab_high, de_high)};
        for (std::int64_t i = 0; i < 4; ++i)
          _mm_store_si128(reinterpret_cast<__m128i*>(out + (k + 4 * i) * kPanel + j * 4), _mm_xor_si128(words[i], shift));
      }
    }
  }
  // What is left of the columns, and panels that are not full.
  for (std::int64_t j = 0; j < count; ++j)
    for (std::int64_t k = whole; k < cols; ++k)
      out[k / 4 * 4 * kPanel + j * 4 + k % 4] = static_cast<std::uint8_t>(weight.codes[(first + j) * cols + k] ^ -128);
}

// Columns [first, first + count) of the weight; the sum goes along its rows.
TENON_INT8_INLINE void pack_columns(const Weight& weight, std::int64_t first, std::int64_t count, std::uint8_t* out) {
  std::int8_t rest[4][kPanel] = {};
  for (std::int64_t row = 0; row < weight.rows; row += 4) {
    const std::int8_t* from[4];
    for (std::int64_t r = 0; r < 4; ++r) {
      from[r] = weight.codes + (row + r < weight.rows ? row + r : row) * weight.cols + first;
      if (row + r + 32 < weight.rows) __builtin_prefetch(from[r] + 32 * weight.cols, 0, 3);
      if (count == kPanel) continue;
      std::memcpy(rest[r], from[r], static_cast<std::size_t>(count));
      from[r] = rest[r];
    }
    std::uint8_t* to = out + row * kPanel;
    for (std::int64_t j = 0; j < kPanel; ++j) {
      to[4 * j] = static_cast<std::uint8_t>(from[0][j] ^ -128);
      to[4 * j + 1] = static_cast<std::uint8_t>(from[1][j] ^ -128);
      to[4 * j + 2] = static_cast<std::uint8_t>(from[2][j] ^ -128);
      to[4 * j + 3] = static_cast<std::uint8_t>(from[3][j] ^ -128);
    }
  }
}

// Sums of M rows of codes and one panel: out[M][kPanel].
template <std::int64_t M>
TENON_INT8_INLINE void packed_tile(const std::uint8_t* panel, const std::int8_t* codes, std::int64_t stride, const std::int32_t* sums,
                                   std::int64_t depth, std::int32_t* out) {
  typename Isa::Sum total[M][2] = {};
  for (std::int64_t k = 0; k < depth; k += 4) {
    const typename Isa::Codes left = Isa::packed(panel + k * kPanel), right = Isa::packed(panel + k * kPanel + Isa::kBytes);
#pragma GCC unroll 16
    for (std::int64_t i = 0; i < M; ++i) {
      const typename Isa::Codes four = Isa::broadcast(codes + i * stride + k);
      Isa::add(total[i][0], left, four);
      Isa::add(total[i][1], right, four);
    }
  }
#pragma GCC unroll 16
  for (std::int64_t i = 0; i < M; ++i) {
    Isa::store(out + i * kPanel, total[i][0]);
    Isa::store(out + i * kPanel + kPanel / 2, total[i][1]);
    for (std::int64_t j = 0; j < kPanel; ++j) out[i * kPanel + j] -= 128 * sums[i];
  }
}

// Outputs [begin, end) for every row of codes: pack(first, count, to) packs a panel; emit(row, output, rows, outputs, sums [rows][kPanel]) takes sums.
// `scratch`: packed_bytes(depth). Tiles have an even number of rows where `rows` is even.
template <class Pack, class Emit>
TENON_INT8_INLINE void packed_panels(const std::int8_t* codes, std::int64_t stride, const std::int32_t* row_sums, std::int64_t rows,
                                     std::int64_t depth, std::int64_t begin, std::int64_t end, std::uint8_t* scratch, const Pack& pack,
                                     const Emit& emit) {
  scratch += -reinterpret_cast<std::uintptr_t>(scratch) % 64;
  const std::int64_t panel_bytes = (depth + 3) / 4 * 4 * kPanel;
  std::int32_t sums[Isa::kTileRows * kPanel];
  for (std::int64_t first = begin; first < end; first += kPanels * kPanel) {
    for (std::int64_t p = 0, n = first; p < kPanels && n < end; ++p, n += kPanel)
      pack(n, end - n < kPanel ? end - n : kPanel, scratch + p * panel_bytes);
    const auto tiles = [&](std::int64_t m, auto count) __attribute__((always_inline)) {
      for (std::int64_t p = 0, n = first; p < kPanels && n < end; ++p, n += kPanel) {
        packed_tile<decltype(count)::value>(scratch + p * panel_bytes, codes + m * stride, stride, row_sums + m, depth, sums);
        emit(m, n, decltype(count)::value, end - n < kPanel ? end - n : kPanel, sums);
      }
    };
    std::int64_t m = 0;
    for (; m + Isa::kTileRows <= rows; m += Isa::kTileRows) tiles(m, Count<Isa::kTileRows>{});
    for (; m + 4 <= rows; m += 4) tiles(m, Count<4>{});
    for (; m + 2 <= rows; m += 2) tiles(m, Count<2>{});
    if (m < rows) tiles(m, Count<1>{});
  }
}

// Rows of dy times the scales of the weight's rows, as 16-bit numbers in two rows of codes: 256 * the first + the second.
void quantize_gradient(const void* dy, Dtype dtype, const float* weight_scales, std::int64_t row_begin, std::int64_t row_end,
                       std::int64_t cols, std::int8_t* codes, float* scales, std::int32_t* sums) {
  alignas(64) float chunk[kChunk];
  const std::int64_t stride = row_stride(cols);
  const auto take = [&](std::int64_t row, std::int64_t c, std::int64_t count) __attribute__((always_inline)) {
    load(dy, dtype, row * cols + c, count, chunk);
    for (std::int64_t i = 0; i < count; ++i) chunk[i] *= weight_scales[c + i];
  };
  for (std::int64_t row = row_begin; row < row_end; ++row) {
    std::int8_t *high = codes + 2 * row * stride, *low = high + stride;
    std::uint32_t bits = 0;
    for (std::int64_t c = 0; c < cols; c += kChunk) {
      const std::int64_t count = cols - c < kChunk ? cols - c : kChunk;
      take(row, c, count);
      bits = largest_bits(chunk, count, bits);
    }
    const float largest = std::bit_cast<float>(bits);
    const bool is_finite = bits < 0x7f800000u;
    const float divisor = largest > 0 && is_finite ? largest : __builtin_inff();  // codes of other rows are zeros
    // What is no number, or infinite, makes its whole row NaN: codes are zeros then, and the scale is not finite.
    scales[row] = largest * (1.0f / (kGradientStep * 127.0f));
    std::int32_t high_sum = 0, low_sum = 0;
    for (std::int64_t c = 0; c < cols; c += kChunk) {
      const std::int64_t count = cols - c < kChunk ? cols - c : kChunk;
      if (cols > kChunk || c > 0) take(row, c, count);
      for (std::int64_t i = 0; i < count; ++i) {
        const float scaled = is_finite ? chunk[i] / divisor * kGradientStep : 0.0f;
        const auto value = static_cast<std::int32_t>((scaled + 12582912.0f) - 12582912.0f);
        const std::int32_t upper = (value + 128) >> 8;
        const std::int32_t lower = value - 256 * upper;
        high[c + i] = static_cast<std::int8_t>(upper), low[c + i] = static_cast<std::int8_t>(lower);
        high_sum += upper, low_sum += lower;
      }
    }
    std::memset(high + cols, 0, static_cast<std::size_t>(stride - cols));
    std::memset(low + cols, 0, static_cast<std::size_t>(stride - cols));
    sums[2 * row] = high_sum, sums[2 * row + 1] = low_sum;
  }
}

void multiply_transposed(const Weight& weight, const Gradient& dy, std::int64_t col_begin, std::int64_t col_end, std::uint8_t* scratch,
                         void* dx, Dtype dx_dtype, std::int64_t dx_stride) {
  packed_panels(
      dy.codes, dy.stride, dy.sums, 2 * dy.rows, weight.rows, col_begin, col_end, scratch,
      [&](std::int64_t first, std::int64_t count, std::uint8_t * to)
          __attribute__((always_inline)) { pack_columns(weight, first, count, to); },
      [&](std::int64_t m, std::int64_t n, std::int64_t ms, std::int64_t ns, const std::int32_t* sums) __attribute__((always_inline)) {
        float values[kPanel];
        for (std::int64_t i = 0; i < ms; i += 2) {
          const std::int32_t *high = sums + i * kPanel, *low = high + kPanel;
          const float scale = dy.scales[(m + i) / 2];
          for (std::int64_t j = 0; j < kPanel; ++j) values[j] = (256.0f * static_cast<float>(high[j]) + static_cast<float>(low[j])) * scale;
          store_row(dx, dx_dtype, (m + i) / 2 * dx_stride + n, ns, values);
        }
      });
}

}  // namespace
}  // namespace tenon::int8
