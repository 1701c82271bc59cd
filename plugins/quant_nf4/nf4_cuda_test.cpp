// nf4_cuda.cu, compiled as C++ and run on the CPU thread for thread (tests/support/cuda_on_cpu), against the CPU's kernels: codes, absmax, nested absmax
// and dequantized weights bit by bit, products against float64.
#include <doctest/doctest.h>

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#define cuda on_cpu  // a name of its own, beside what nvcc makes of the same file
#include "nf4_cuda.cu"
#undef cuda

#include "kernels_internal.h"

using namespace tenon::nf4;

namespace {

using Bytes = std::vector<std::uint8_t>;
using Floats = std::vector<float>;
constexpr Dtype kDtypes[] = {Dtype::F32, Dtype::Bf16, Dtype::F16};
constexpr Codebook kCodebooks[] = {Codebook::Nf4, Codebook::Fp4};
const on_cpu::Place kHere{0, nullptr};

std::size_t size_of(Dtype dtype) { return dtype == Dtype::F32 ? 4 : 2; }
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

Floats random_values(std::size_t count, std::mt19937& random, float spread) {
  std::normal_distribution<float> normal(0, spread);
  Floats values(count);
  for (float& value : values) value = normal(random);
  return values;
}
Bytes stored(const Floats& values, Dtype dtype) {
  Bytes out(values.size() * size_of(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) detail::store_element(out.data(), dtype, static_cast<std::int64_t>(i), values[i]);
  return out;
}
float loaded(const Bytes& bytes, Dtype dtype, std::int64_t i) {
  if (dtype == Dtype::F32) return reinterpret_cast<const float*>(bytes.data())[i];
  const std::uint16_t bits = reinterpret_cast<const std::uint16_t*>(bytes.data())[i];
  return dtype == Dtype::Bf16 ? cuda_on_cpu::bfloat_value(bits) : cuda_on_cpu::half_value(bits);
}

struct Quantized {
  Bytes codes, absmax_codes;
  Floats absmax, nested;
  float offset = 0;
  Weight view;
  Quantized(std::int64_t rows, std::int64_t cols, Codebook codebook, std::int32_t block, bool is_nested, std::mt19937& random) : view{} {
    const std::int64_t count = rows * cols, blocks = block_count(count, block);
    codes.resize(static_cast<std::size_t>(code_bytes(count))), absmax.resize(static_cast<std::size_t>(blocks));
    for (auto& code : codes) code = static_cast<std::uint8_t>(random());
    for (float& value : absmax) value = 0.01f + static_cast<float>(random() % 1000) / 5000;
    view = {codes.data(), absmax.data(), nullptr, nullptr, 0, codebook, block, rows, cols};
    if (!is_nested) return;
    absmax_codes.resize(absmax.size()), nested.resize(static_cast<std::size_t>(block_count(blocks, kNestedBlock)));
    offset = mean_absmax(absmax.data(), blocks);
    quantize_absmax(absmax.data(), blocks, offset, absmax_codes.data(), nested.data());
    view = {codes.data(), nullptr, absmax_codes.data(), nested.data(), offset, codebook, block, rows, cols};
  }
  // As it is on a device: the offset is read there.
  Weight on_device() const {
    Weight weight = view;
    if (!nested.empty()) weight.nested_offset = std::numeric_limits<float>::quiet_NaN(), weight.nested_offset_at = &offset;
    return weight;
  }
};

}  // namespace

TEST_CASE("CUDA's codes and absmax are the CPU's, bit by bit") {
  std::mt19937 random(1);
  for (const Dtype dtype : kDtypes)
    for (const Codebook codebook : kCodebooks)
      for (const std::int32_t block : {32, 64, 256, 1024})
        for (const std::int64_t count : {1, 31, 64, 333, 1026, 4096}) {
          CAPTURE(block);
          CAPTURE(count);
          Floats values = random_values(static_cast<std::size_t>(count), random, 0.02f);
          if (count > 100) values[70] = std::numeric_limits<float>::infinity(), values[3] = -1e-39f;
          if (count > 1000)
            for (std::size_t i = 256; i < 512; ++i) values[i] = 0;
          if (count > 4000) values[2000] = std::numeric_limits<float>::quiet_NaN();
          const Bytes source = stored(values, dtype);
          Bytes codes(static_cast<std::size_t>(code_bytes(count))), expected_codes = codes;
          Floats absmax(static_cast<std::size_t>(block_count(count, block))), expected_absmax = absmax;
          on_cpu::quantize(source.data(), dtype, count, codebook, block, codes.data(), absmax.data(), kHere);
          available_kernels().front()->quantize(source.data(), dtype, count, codebook, block, expected_codes.data(),
                                                expected_absmax.data());
          CHECK(same_bits(codes, expected_codes));
          CHECK(same_bits(absmax, expected_absmax));
        }
}

TEST_CASE("CUDA's double quantization is the CPU's, bit by bit") {
  std::mt19937 random(2);
  for (const std::int64_t count : {1, 255, 256, 257, 1000}) {
    Floats absmax = random_values(static_cast<std::size_t>(count), random, 0.1f);
    for (float& value : absmax) value = std::fabs(value);
    const float offset = mean_absmax(absmax.data(), count);
    Bytes codes(absmax.size()), expected_codes = codes;
    Floats nested(static_cast<std::size_t>(block_count(count, kNestedBlock))), expected_nested = nested;
    on_cpu::quantize_absmax(absmax.data(), count, offset, codes.data(), nested.data(), kHere);
    quantize_absmax(absmax.data(), count, offset, expected_codes.data(), expected_nested.data());
    CHECK(same_bits(codes, expected_codes));
    CHECK(same_bits(nested, expected_nested));
    Floats back(absmax.size()), expected_back = back;
    on_cpu::dequantize_absmax(codes.data(), nested.data(), offset, count, back.data(), kHere);
    dequantize_absmax(codes.data(), nested.data(), offset, count, expected_back.data());
    CHECK(same_bits(back, expected_back));
  }
}

TEST_CASE("CUDA's dequantized weights are the CPU's, bit by bit, from any element on") {
  std::mt19937 random(3);
  for (const Dtype dtype : kDtypes)
    for (const Codebook codebook : kCodebooks)
      for (const bool is_nested : {false, true})
        for (const auto& [rows, cols] : std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {3, 64}, {7, 50}, {40, 264}}) {
          const Quantized weight(rows, cols, codebook, 32, is_nested, random);
          const std::int64_t all = rows * cols;
          for (const std::int64_t begin : {std::int64_t{0}, all / 3, (all / 2) / 8 * 8}) {
            Bytes out(static_cast<std::size_t>(all - begin) * size_of(dtype)), expected = out;
            on_cpu::dequantize(weight.on_device(), begin, all - begin, dtype, out.data(), kHere);
            available_kernels().front()->dequantize(weight.view, begin, all - begin, dtype, expected.data());
            CHECK(same_bits(out, expected));
          }
        }
}

TEST_CASE("CUDA's products of up to sixteen rows") {
  std::mt19937 random(4);
  for (const Dtype dtype : kDtypes)
    for (const Codebook codebook : kCodebooks)
      for (const bool is_nested : {false, true})
        for (const auto& [rows, cols] : std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {5, 64}, {9, 50}, {17, 528}})
          for (const std::int64_t m : {1, 2, 7, 16}) {
            const Quantized weight(rows, cols, codebook, 64, is_nested, random);
            const Bytes x = stored(random_values(static_cast<std::size_t>(m * cols), random, 1), dtype);
            Bytes y(static_cast<std::size_t>(m * rows) * size_of(dtype));
            on_cpu::multiply(weight.on_device(), x.data(), dtype, m, y.data(), kHere);
            Floats dense(static_cast<std::size_t>(rows * cols));
            available_kernels().front()->dequantize(weight.view, 0, rows * cols, Dtype::F32, dense.data());
            double worst = 0;
            for (std::int64_t i = 0; i < m; ++i)
              for (std::int64_t n = 0; n < rows; ++n) {
                double exact = 0, size = 0;
                for (std::int64_t c = 0; c < cols; ++c) {
                  const double product =
                      static_cast<double>(dense[static_cast<std::size_t>(n * cols + c)]) * loaded(x, dtype, i * cols + c);
                  exact += product, size += std::fabs(product);
                }
                // Products and sums in float32, then one rounding to the dtype.
                const double allowed = 2e-6 * size +
                                       std::fabs(exact) * (dtype == Dtype::F32    ? 0
                                                           : dtype == Dtype::Bf16 ? 0x1p-8
                                                                                  : 0x1p-11) +
                                       1e-7;
                worst = std::max(worst, std::fabs(loaded(y, dtype, i * rows + n) - exact) / allowed);
              }
            CHECK(worst <= 1);
          }
}
