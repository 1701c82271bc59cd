#pragma once
// The kernels, written once and compiled for each instruction set: included by kernels_<isa>.cpp after it has defined `struct Isa` in an unnamed
// namespace. Everything here has internal linkage, so that the linker never picks one file's copy for all; for the same reason no std:: algorithms.
//
// struct Isa {
//   static constexpr const char* kName;
//   static constexpr std::int64_t kBytes;             // columns taken together; divides kRowAlignment
//   static constexpr bool kShifted;                   // weights are multiplied as code + 128; multiply() takes 128 * sums off again
//   using Codes = ...; using Sum = ...;               // kBytes codes; their int32 partial sums
//   static Codes weight(const std::int8_t*);          // from any address
//   static Codes activation(const std::int8_t*);
//   static void add(Sum&, const Codes& weight, const Codes& activation);
//   static std::int32_t total(const Sum&);
//   static void round_to_half(float* values, std::int64_t count);
// };
#include <bit>
#include <cstdint>
#include <cstring>

#include "kernels.h"
#include "kernels_convert.h"

namespace tenon::int8 {
namespace {

constexpr std::int64_t kChunk = 1024;  // elements converted at a time

// Elements [first, first + count) as float32.
TENON_INT8_INLINE void load(const void* data, Dtype dtype, std::int64_t first, std::int64_t count, float* out) {
  if (dtype == Dtype::F32) {
    std::memcpy(out, static_cast<const float*>(data) + first, static_cast<std::size_t>(count) * sizeof(float));
    return;
  }
  const std::uint16_t* halves = static_cast<const std::uint16_t*>(data) + first;
  if (dtype == Dtype::Bf16)
    for (std::int64_t i = 0; i < count; ++i) out[i] = from_bf16(halves[i]);
  else
    for (std::int64_t i = 0; i < count; ++i) out[i] = from_f16(halves[i]);
}
TENON_INT8_INLINE void store_row(void* data, Dtype dtype, std::int64_t first, std::int64_t count, const float* values) {
  if (dtype == Dtype::F32) {
    std::memcpy(static_cast<float*>(data) + first, values, static_cast<std::size_t>(count) * sizeof(float));
    return;
  }
  std::uint16_t* halves = static_cast<std::uint16_t*>(data) + first;
  if (dtype == Dtype::Bf16)
    for (std::int64_t i = 0; i < count; ++i) halves[i] = to_bf16(values[i]);
  else
    for (std::int64_t i = 0; i < count; ++i) halves[i] = to_f16(values[i]);
}

// Largest magnitude, as bits: they are in the order of the values, and NaN is above all.
TENON_INT8_INLINE std::uint32_t largest_bits(const float* values, std::int64_t count, std::uint32_t largest) {
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, values + i, sizeof bits);
    bits &= 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

// round(v * factor), to the even one in the middle; what is no number becomes 0.
TENON_INT8_INLINE void encode(const float* values, std::int64_t count, float factor, std::int8_t* codes) {
  for (std::int64_t i = 0; i < count; ++i) {
    // Adding and taking off 1.5 * 2^23 rounds as the processor rounds; |v * factor| is at most 127 and a little.
    const float scaled = values[i] * factor;
    const float rounded = (scaled + 12582912.0f) - 12582912.0f;
    const bool is_code = rounded >= -128.0f && rounded <= 127.0f;
    codes[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(is_code ? rounded : 0.0f));
  }
}

void quantize_rows(const void* weight, Dtype dtype, std::int64_t row_begin, std::int64_t row_end, std::int64_t cols, std::int8_t* codes,
                   float* scales) {
  alignas(64) float chunk[kChunk];
  for (std::int64_t row = row_begin; row < row_end; ++row) {
    std::uint32_t largest = 0;
    for (std::int64_t c = 0; c < cols; c += kChunk) {
      const std::int64_t count = cols - c < kChunk ? cols - c : kChunk;
      load(weight, dtype, row * cols + c, count, chunk);
      if (dtype != Dtype::F16) Isa::round_to_half(chunk, count);
      largest = largest_bits(chunk, count, largest);
    }
    const float scale = std::bit_cast<float>(largest), factor = 1.0f / scale * 127.0f;  // in the two steps that LibTorch takes
    scales[row] = scale;
    for (std::int64_t c = 0; c < cols; c += kChunk) {
      const std::int64_t count = cols - c < kChunk ? cols - c : kChunk;
      if (cols > kChunk || c > 0) {  // a row of one chunk is still there
        load(weight, dtype, row * cols + c, count, chunk);
        if (dtype != Dtype::F16) Isa::round_to_half(chunk, count);
      }
      encode(chunk, count, factor, codes + row * cols + c);
    }
  }
}

void find_outliers(const void* x, Dtype dtype, std::int64_t row_begin, std::int64_t row_end, std::int64_t cols, float threshold,
                   std::uint8_t* is_outlier) {
  alignas(64) float chunk[kChunk];
  for (std::int64_t row = row_begin; row < row_end; ++row)
    for (std::int64_t c = 0; c < cols; c += kChunk) {
      const std::int64_t count = cols - c < kChunk ? cols - c : kChunk;
      load(x, dtype, row * cols + c, count, chunk);
      for (std::int64_t i = 0; i < count; ++i) is_outlier[c + i] |= static_cast<std::uint8_t>(__builtin_fabsf(chunk[i]) >= threshold);
    }
}

void quantize_activation(const void* x, Dtype dtype, std::int64_t row_begin, std::int64_t row_end, std::int64_t cols, float threshold,
                         const std::int64_t* outlier_columns, std::int64_t outliers, std::int8_t* codes, float* scales,
                         std::int32_t* sums) {
  alignas(64) float chunk[kChunk];
  const std::int64_t stride = row_stride(cols);
  const float limit = threshold > 0 && outliers > 0 ? threshold : __builtin_inff();
  const auto take = [&](std::int64_t row, std::int64_t c, std::int64_t count) __attribute__((always_inline)) {
    load(x, dtype, row * cols + c, count, chunk);
    if (outliers > 0)
      for (std::int64_t i = 0; i < count; ++i) chunk[i] = __builtin_fabsf(chunk[i]) >= limit ? 0.0f : chunk[i];
  };
  for (std::int64_t row = row_begin; row < row_end; ++row) {
    std::int8_t* out = codes + row * stride;
    std::uint32_t largest = 0;
    for (std::int64_t c = 0; c < cols; c += kChunk) {
      const std::int64_t count = cols - c < kChunk ? cols - c : kChunk;
      take(row, c, count);
      largest = largest_bits(chunk, count, largest);
    }
    const float scale = std::bit_cast<float>(largest), factor = 1.0f / scale * 127.0f;  // in the two steps that LibTorch takes
    scales[row] = scale;
    for (std::int64_t c = 0; c < cols; c += kChunk) {
      const std::int64_t count = cols - c < kChunk ? cols - c : kChunk;
      if (cols > kChunk || c > 0) take(row, c, count);
      encode(chunk, count, factor, out + c);
    }
    for (std::int64_t i = 0; i < outliers; ++i) out[outlier_columns[i]] = 0;
    std::memset(out + cols, 0, static_cast<std::size_t>(stride - cols));
    std::int32_t sum = 0;
    for (std::int64_t c = 0; c < cols; ++c) sum += out[c];
    sums[row] = sum;
  }
}

// Accumulators of M rows of x and N rows of the weight.
template <std::int64_t M, std::int64_t N>
TENON_INT8_INLINE void tile(const Weight& weight, const Activation& x, std::int64_t m, std::int64_t n, std::int32_t out[M][N]) {
  typename Isa::Sum sums[N][M] = {};
  const std::int8_t* w = weight.codes + n * weight.cols;
  const std::int8_t* a = x.codes + m * x.stride;
  const std::int64_t whole = weight.cols / Isa::kBytes * Isa::kBytes;
  const auto step = [&](const std::int8_t* const(&from)[N], std::int64_t c) __attribute__((always_inline)) {
    typename Isa::Codes w_codes[N];
#pragma GCC unroll 4
    for (std::int64_t j = 0; j < N; ++j) w_codes[j] = Isa::weight(from[j]);
#pragma GCC unroll 4
    for (std::int64_t i = 0; i < M; ++i) {
      const typename Isa::Codes a_codes = Isa::activation(a + i * x.stride + c);
#pragma GCC unroll 4
      for (std::int64_t j = 0; j < N; ++j) Isa::add(sums[j][i], w_codes[j], a_codes);
    }
  };
  const std::int8_t* from[N];
  for (std::int64_t c = 0; c < whole; c += Isa::kBytes) {
#pragma GCC unroll 4
    for (std::int64_t j = 0; j < N; ++j) from[j] = w + j * weight.cols + c;
    // The same place in the next rows: the processor's own prefetching ends where a row does.
    if constexpr (M == 1) {
#pragma GCC unroll 4
      for (std::int64_t j = 0; j < N; ++j) __builtin_prefetch(from[j] + N * weight.cols, 0, 2);
    }
    step(from, c);
  }
  if (whole < weight.cols) {  // never read past the weight; the activations behind the end are zeros
    std::int8_t rest[N][Isa::kBytes] = {};
    for (std::int64_t j = 0; j < N; ++j) {
      std::memcpy(rest[j], w + j * weight.cols + whole, static_cast<std::size_t>(weight.cols - whole));
      from[j] = rest[j];
    }
    step(from, whole);
  }
#pragma GCC unroll 4
  for (std::int64_t i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (std::int64_t j = 0; j < N; ++j) out[i][j] = Isa::total(sums[j][i]) - (Isa::kShifted ? 128 * x.sums[m + i] : 0);
}

// Sums of weight rows [row_begin, row_end) with every row of x: emit(row of x, row of the weight, rows of x, rows of the weight, sums, from one
// row of sums to the next).
template <class Emit>
TENON_INT8_INLINE void all_tiles(const Weight& weight, const Activation& x, std::int64_t row_begin, std::int64_t row_end,
                                 const Emit& emit) {
  constexpr std::int64_t kRows = 4;                 // of the weight
  constexpr std::int64_t kPanelBytes = 192 * 1024;  // of the weight: stays in the second cache while all of x passes over it
  const std::int64_t room = weight.cols > 0 ? kPanelBytes / weight.cols / kRows * kRows : kRows;
  const std::int64_t panel = room < kRows ? kRows : room;
  std::int32_t sums[4][kRows];
  std::int32_t one[4][1];
  for (std::int64_t p = row_begin; p < row_end; p += panel) {
    const std::int64_t stop = p + panel < row_end ? p + panel : row_end;
    std::int64_t m = 0;
    for (; m + 4 <= x.rows; m += 4) {
      std::int64_t n = p;
      for (; n + kRows <= stop; n += kRows) {
        tile<4, kRows>(weight, x, m, n, sums);
        emit(m, n, 4, kRows, &sums[0][0], kRows);
      }
      for (; n < stop; ++n) {
        tile<4, 1>(weight, x, m, n, one);
        emit(m, n, 4, 1, &one[0][0], 1);
      }
    }
    for (; m < x.rows; ++m) {
      std::int64_t n = p;
      for (; n + kRows <= stop; n += kRows) {
        tile<1, kRows>(weight, x, m, n, sums);
        emit(m, n, 1, kRows, &sums[0][0], kRows);
      }
      for (; n < stop; ++n) {
        tile<1, 1>(weight, x, m, n, one);
        emit(m, n, 1, 1, &one[0][0], 1);
      }
    }
  }
}

#ifdef TENON_INT8_PACKS
}  // namespace
}  // namespace tenon::int8

#include "packed_body.h"

namespace tenon::int8 {
namespace {
#endif

// The way that all_tiles does it, or, with scratch, through packed panels. The sums are the same integers.
template <class Emit>
TENON_INT8_INLINE void all_sums(const Weight& weight, const Activation& x, std::int64_t row_begin, std::int64_t row_end,
                                [[maybe_unused]] std::uint8_t* scratch, const Emit& emit) {
#ifdef TENON_INT8_PACKS
  if (scratch != nullptr)
    return packed_panels(
        x.codes, x.stride, x.sums, x.rows, weight.cols, row_begin, row_end, scratch,
        [&](std::int64_t first, std::int64_t count, std::uint8_t * to)
            __attribute__((always_inline)) { pack_rows(weight, first, count, to); },
        [&](std::int64_t m, std::int64_t n, std::int64_t ms, std::int64_t ns, const std::int32_t* sums)
            __attribute__((always_inline)) { emit(m, n, ms, ns, sums, kPanel); });
#endif
  all_tiles(weight, x, row_begin, row_end, emit);
}

void multiply(const Weight& weight, const Activation& x, std::int64_t row_begin, std::int64_t row_end, std::uint8_t* scratch, void* y,
              Dtype y_dtype, std::int64_t y_stride) {
  all_sums(
      weight, x, row_begin, row_end, scratch,
      [&](std::int64_t m, std::int64_t n, std::int64_t ms, std::int64_t ns, const std::int32_t* sums, std::int64_t sums_stride)
          __attribute__((always_inline)) {
            constexpr std::int64_t kMost = 32;  // of weight rows at a time
            float values[kMost];
            const float* scales = weight.scales + n;
            for (std::int64_t i = 0; i < ms; ++i, sums += sums_stride) {
              const float x_scale = x.scales[m + i];
              for (std::int64_t j = 0; j < ns; ++j)
                values[j] = static_cast<float>(sums[j]) * (x_scale * scales[j] * (1.0f / (127.0f * 127.0f)));
              if (x.outlier_product != nullptr) {
                const float* apart = x.outlier_product + (m + i) * weight.rows + n;
                for (std::int64_t j = 0; j < ns; ++j) values[j] += apart[j];
              } else if (x.outliers > 0) {
                const float* outlier = x.outlier_values + (m + i) * x.outliers;
                for (std::int64_t j = 0; j < ns; ++j) {
                  const std::int8_t* codes = weight.codes + (n + j) * weight.cols;
                  float apart = 0;
                  for (std::int64_t k = 0; k < x.outliers; ++k) apart += outlier[k] * static_cast<float>(codes[x.outlier_columns[k]]);
                  values[j] += apart * (scales[j] * (1.0f / 127.0f));
                }
              }
              store_row(y, y_dtype, (m + i) * y_stride + n, ns, values);
            }
          });
}

void accumulate(const Weight& weight, const Activation& x, std::int64_t row_begin, std::int64_t row_end, std::uint8_t* scratch,
                std::int32_t* out, std::int64_t out_stride) {
  all_sums(
      weight, x, row_begin, row_end, scratch,
      [&](std::int64_t m, std::int64_t n, std::int64_t ms, std::int64_t ns, const std::int32_t* sums, std::int64_t sums_stride)
          __attribute__((always_inline)) {
            for (std::int64_t i = 0; i < ms; ++i)
              for (std::int64_t j = 0; j < ns; ++j) out[(m + i) * out_stride + n + j - row_begin] = sums[i * sums_stride + j];
          });
}

void gather(const Weight& weight, std::int64_t row_begin, std::int64_t row_end, const std::int64_t* columns, std::int64_t count,
            float* out) {
  for (std::int64_t row = row_begin; row < row_end; ++row) {
    const std::int8_t* codes = weight.codes + row * weight.cols;
    const float scale = weight.scales[row] * (1.0f / 127.0f);
    for (std::int64_t i = 0; i < count; ++i) out[row * count + i] = static_cast<float>(codes[columns[i]]) * scale;
  }
}

void dequantize(const Weight& weight, std::int64_t row_begin, std::int64_t row_end, Dtype dtype, void* out) {
  for (std::int64_t row = row_begin; row < row_end; ++row) {
    const std::int8_t* codes = weight.codes + row * weight.cols;
    const float scale = weight.scales[row] * (1.0f / 127.0f);
    const std::int64_t first = (row - row_begin) * weight.cols;
    if (dtype == Dtype::F32) {
      float* to = static_cast<float*>(out) + first;
      for (std::int64_t c = 0; c < weight.cols; ++c) to[c] = static_cast<float>(codes[c]) * scale;
    } else if (dtype == Dtype::Bf16) {
      std::uint16_t* to = static_cast<std::uint16_t*>(out) + first;
      for (std::int64_t c = 0; c < weight.cols; ++c) to[c] = to_bf16(static_cast<float>(codes[c]) * scale);
    } else {
      std::uint16_t* to = static_cast<std::uint16_t*>(out) + first;
      for (std::int64_t c = 0; c < weight.cols; ++c) to[c] = to_f16(static_cast<float>(codes[c]) * scale);
    }
  }
}

constexpr Kernels kTable = {Isa::kName,       quantize_rows, find_outliers,     quantize_activation, gather,
                            multiply,         accumulate,    dequantize,
#ifdef TENON_INT8_PACKS
                            Isa::kPackedRows, packed_bytes,  quantize_gradient, multiply_transposed
#endif
};

}  // namespace
}  // namespace tenon::int8
