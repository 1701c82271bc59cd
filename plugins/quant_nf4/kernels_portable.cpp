// The kernels in plain C++: what runs where nothing better does, and what the others must equal.
#include <algorithm>
#include <cmath>

#include "kernels_internal.h"

namespace tenon::nf4::detail {
namespace {

// Rank of a scaled value among the bounds, then its code. NaN has the highest rank, as in torch.bucketize.
template <Codebook kCodebook>
inline int encode(float scaled) {
  constexpr const Ranks& kRanks = ranks_of(kCodebook);
  if (scaled != scaled) return kRanks.by_rank[kCodes - 1];
  const int cell = static_cast<int>(scaled * kCellScale + kCellShift);
  int rank = kRanks.cell_base[cell] + (scaled > kRanks.cell_bound[cell] ? 1 : 0);
  if constexpr (kRanks.has_extra) rank += scaled > kRanks.extra ? 1 : 0;
  return kRanks.by_rank[rank];
}

template <Codebook kCodebook, Dtype kDtype>
float quantize_block(const void* source, std::int64_t begin, std::int64_t count, bool is_full, std::uint8_t* codes) {
  std::uint32_t largest = 0;  // magnitudes order like their bits, and a NaN is above them all
  for (std::int64_t i = begin; i < begin + count; ++i) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(load_element(source, kDtype, i)) & 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  float absmax = std::bit_cast<float>(largest > kInfinityBits ? kQuietNanBits : largest);
  const float divisor = absmax < kLeastAbsmax ? kLeastAbsmax : absmax;
  const float factor = 1.0f / divisor;
  auto code = [&](std::int64_t i) {
    const float value = load_element(source, kDtype, begin + i);
    return encode<kCodebook>(is_full ? value * factor : value / divisor);
  };
  std::int64_t i = 0;
  for (; i + 2 <= count; i += 2) codes[i / 2] = static_cast<std::uint8_t>(code(i) << 4 | code(i + 1));
  if (i < count) codes[i / 2] = static_cast<std::uint8_t>(code(i) << 4 | encode<kCodebook>(0.0f));
  return is_full ? absmax : divisor;
}

template <Codebook kCodebook, Dtype kDtype>
void quantize_all(const void* source, std::int64_t count, std::int32_t block, std::uint8_t* codes, float* absmax) {
  for (std::int64_t begin = 0; begin < count; begin += block) {
    const std::int64_t size = std::min<std::int64_t>(block, count - begin);
    absmax[begin / block] = quantize_block<kCodebook, kDtype>(source, begin, size, size == block, codes + begin / 2);
  }
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

// A block has 16 values at most: scale and round those once, then only look up.
template <Dtype kDtype, class Out>
void dequantize_all(const Weight& weight, std::int64_t begin, std::int64_t count, Out* out) {
  const std::array<float, kCodes>& values = values_of(weight.codebook);
  const int shift = log2_of(weight.block);
  const std::int64_t end = begin + count;
  for (std::int64_t i = begin; i < end;) {
    const float absmax = block_absmax(weight, i >> shift);
    Out scaled[kCodes];
    for (int c = 0; c < kCodes; ++c) store_element(scaled, kDtype, c, values[c] * absmax);
    const std::int64_t stop = std::min(end, ((i >> shift) + 1) << shift);
    if ((i & 1) != 0) *out++ = scaled[weight.codes[i++ >> 1] & 15];
    for (; i + 2 <= stop; i += 2, out += 2) {
      const std::uint8_t pair = weight.codes[i >> 1];
      out[0] = scaled[pair >> 4];
      out[1] = scaled[pair & 15];
    }
    if (i < stop) *out++ = scaled[weight.codes[i++ >> 1] >> 4];
  }
}

void dequantize(const Weight& weight, std::int64_t begin, std::int64_t count, Dtype dtype, void* out) {
  switch (dtype) {
    case Dtype::F32: return dequantize_all<Dtype::F32>(weight, begin, count, static_cast<float*>(out));
    case Dtype::Bf16: return dequantize_all<Dtype::Bf16>(weight, begin, count, static_cast<std::uint16_t*>(out));
    case Dtype::F16: return dequantize_all<Dtype::F16>(weight, begin, count, static_cast<std::uint16_t*>(out));
  }
}

float dot(const float* a, const float* b, std::int64_t count) {
  constexpr int kLanes = 16;  // independent sums: the compiler may use vectors, and errors grow more slowly
  float sums[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) sums[l] += a[i + l] * b[i + l];
  }
  float rest = 0;
  for (; i < count; ++i) rest += a[i] * b[i];
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) sums[l] += sums[l + width];
  }
  return sums[0] + rest;
}

std::size_t activation_bytes(const Weight& weight, Dtype, std::int64_t m) { return plain_activation_bytes(weight.cols, m); }

void pack_activation(const Weight& weight, const void* x, Dtype dtype, std::int64_t m, std::int64_t stride, void* packed) {
  pack_plain_activation(x, dtype, m, weight.cols, stride, static_cast<float*>(packed));
}

void multiply(const Weight& weight, const void* packed, Dtype, std::int64_t m, std::int64_t row_begin, std::int64_t row_end, void* y,
              Dtype y_dtype, std::int64_t y_stride) {
  multiply_plain(weight, dequantize, dot, static_cast<const float*>(packed), m, row_begin, row_end, y, y_dtype, y_stride);
}

constexpr Kernels kKernels = {"portable", quantize, dequantize, activation_bytes, pack_activation, multiply};

}  // namespace

const Kernels& portable_kernels() { return kKernels; }

std::size_t plain_activation_bytes(std::int64_t cols, std::int64_t m) { return static_cast<std::size_t>(cols * m) * sizeof(float); }

void pack_plain_activation(const void* x, Dtype dtype, std::int64_t m, std::int64_t cols, std::int64_t stride, float* packed) {
  for (std::int64_t r = 0; r < m; ++r) {
    for (std::int64_t k = 0; k < cols; ++k) packed[r * cols + k] = load_element(x, dtype, r * stride + k);
  }
}

void multiply_plain(const Weight& weight, decltype(Kernels::dequantize) expand, Dot inner, const float* x, std::int64_t m,
                    std::int64_t row_begin, std::int64_t row_end, void* y, Dtype y_dtype, std::int64_t y_stride) {
  constexpr std::int64_t kPiece = 1024;  // 4 KiB of weights at a time, which stay in the first cache for all m
  constexpr std::int64_t kTile = 16;
  alignas(64) float piece[kPiece];
  for (std::int64_t m0 = 0; m0 < m; m0 += kTile) {
    const std::int64_t tile = std::min(kTile, m - m0);
    for (std::int64_t n = row_begin; n < row_end; ++n) {
      float sums[kTile] = {};
      for (std::int64_t k = 0; k < weight.cols; k += kPiece) {
        const std::int64_t size = std::min(kPiece, weight.cols - k);
        expand(weight, n * weight.cols + k, size, Dtype::F32, piece);
        for (std::int64_t r = 0; r < tile; ++r) sums[r] += inner(piece, x + (m0 + r) * weight.cols + k, size);
      }
      for (std::int64_t r = 0; r < tile; ++r) store_element(y, y_dtype, (m0 + r) * y_stride + n, sums[r]);
    }
  }
}

}  // namespace tenon::nf4::detail
