// int8_cuda.cu, compiled as C++ and run on the CPU thread for thread (tests/support/cuda_on_cpu), against the CPU's kernels: codes, scales, outlier
// columns, accumulators and dequantized weights bit by bit, products against float64.
#include <doctest/doctest.h>

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#define cuda on_cpu  // a name of its own, beside what nvcc makes of the same file
#include "int8_cuda.cu"
#include "int8_cuda_multiply.cu"
#undef cuda

#include "kernels_convert.h"

using namespace tenon::int8;

namespace {

using Floats = std::vector<float>;
using Shapes = std::vector<std::pair<std::int64_t, std::int64_t>>;
constexpr Dtype kDtypes[] = {Dtype::F32, Dtype::Bf16, Dtype::F16};
const on_cpu::Place kHere{0, nullptr};

std::size_t size_of(Dtype dtype) { return dtype == Dtype::F32 ? 4 : 2; }

// As LibTorch gives it: on 64 bytes, of exactly the size asked for, so that AddressSanitizer sees every step outside. `shift` bytes further for views.
template <class T>
class Memory {
 public:
  explicit Memory(std::int64_t count, std::size_t shift = 0) : count_(static_cast<std::size_t>(count)) {
    const std::size_t bytes = count_ * sizeof(T) + shift;
    data_.reset(static_cast<unsigned char*>(::operator new(std::max<std::size_t>(bytes, 1), std::align_val_t(64))));
    std::memset(data_.get(), 0xa5, bytes);
    at_ = reinterpret_cast<T*>(data_.get() + shift);
  }
  T* get() { return at_; }
  const T* get() const { return at_; }
  T& operator[](std::int64_t i) { return at_[i]; }
  bool operator==(const Memory& other) const { return count_ == other.count_ && std::memcmp(at_, other.at_, count_ * sizeof(T)) == 0; }

 private:
  struct Delete {
    void operator()(unsigned char* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::size_t count_;
  std::unique_ptr<unsigned char, Delete> data_;
  T* at_;
};

float as(Dtype dtype, float f) { return dtype == Dtype::F32 ? f : dtype == Dtype::Bf16 ? from_bf16(to_bf16(f)) : from_f16(to_f16(f)); }
void put(unsigned char* to, Dtype dtype, std::size_t i, float f) {
  const std::uint16_t half = dtype == Dtype::Bf16 ? to_bf16(f) : to_f16(f);
  std::memcpy(to + i * size_of(dtype), dtype == Dtype::F32 ? static_cast<const void*>(&f) : &half, size_of(dtype));
}
Memory<unsigned char> stored(const Floats& values, Dtype dtype, std::size_t shift = 0) {
  Memory<unsigned char> bytes(static_cast<std::int64_t>(values.size() * size_of(dtype)), shift);
  for (std::size_t i = 0; i < values.size(); ++i) put(bytes.get(), dtype, i, values[i]);
  return bytes;
}
float loaded(const unsigned char* from, Dtype dtype, std::size_t i) {
  float f;
  std::uint16_t half;
  std::memcpy(&f, from + i * size_of(dtype), size_of(dtype) == 4 ? 4 : 2);
  std::memcpy(&half, from + i * size_of(dtype), 2);
  return dtype == Dtype::F32 ? f : dtype == Dtype::Bf16 ? from_bf16(half) : from_f16(half);
}

Floats random_values(std::int64_t count, std::mt19937& random, float spread) {
  std::normal_distribution<float> normal(0, spread);
  Floats values(static_cast<std::size_t>(count));
  for (float& v : values) v = normal(random);
  return values;
}

struct Quantized {
  Memory<std::int8_t> codes;
  Memory<float> scales;
  Weight view;
  Quantized(std::int64_t rows, std::int64_t cols, std::mt19937& random, std::size_t shift = 0)
      : codes(rows * cols, shift), scales(rows), view{} {
    for (std::int64_t i = 0; i < rows * cols; ++i) codes[i] = static_cast<std::int8_t>(static_cast<int>(random() % 255) - 127);
    for (std::int64_t i = 0; i < rows; ++i) scales[i] = 0.01f + static_cast<float>(random() % 1000) / 1000;
    view = {codes.get(), scales.get(), rows, cols};
  }
};

// x as both sides quantize it.
struct Both {
  Memory<unsigned char> x;
  Memory<std::int8_t> codes, expected_codes;
  Memory<float> scales, expected_scales;
  Memory<std::uint32_t> marks;
  Memory<std::int32_t> columns, count, expected_sums;
  std::vector<std::int64_t> outliers;
  on_cpu::Input input;
  Activation expected;

  Both(const Floats& values, Dtype dtype, std::int64_t rows, std::int64_t cols, float threshold, std::size_t shift = 0)
      : x(stored(values, dtype, shift)),
        codes(rows * row_stride(cols)),
        expected_codes(rows * row_stride(cols)),
        scales(rows),
        expected_scales(rows),
        marks(on_cpu::mark_words(cols)),
        columns(cols),
        count(1),
        expected_sums(rows) {
    input = {x.get(), dtype, rows, cols, row_stride(cols), threshold, codes.get(), scales.get(), marks.get(), columns.get(), count.get()};
    on_cpu::quantize_activation(input, kHere);
    const Kernels& k = *available_kernels().front();
    std::vector<std::uint8_t> is_outlier(static_cast<std::size_t>(cols));
    if (threshold > 0) k.find_outliers(x.get(), dtype, 0, rows, cols, threshold, is_outlier.data());
    for (std::int64_t c = 0; c < cols; ++c)
      if (is_outlier[static_cast<std::size_t>(c)]) outliers.push_back(c);
    k.quantize_activation(x.get(), dtype, 0, rows, cols, threshold, outliers.data(), static_cast<std::int64_t>(outliers.size()),
                          expected_codes.get(), expected_scales.get(), expected_sums.get());
    expected = {expected_codes.get(), expected_scales.get(), expected_sums.get(), rows, row_stride(cols), nullptr, 0, nullptr, nullptr};
  }
  bool agree() {
    bool same = codes == expected_codes && scales == expected_scales && count[0] == static_cast<std::int32_t>(outliers.size());
    for (std::size_t i = 0; same && i < outliers.size(); ++i) same = columns[static_cast<std::int64_t>(i)] == outliers[i];
    return same;
  }
};

}  // namespace

TEST_CASE("a weight's codes and scales are the CPU's, bit by bit, on CUDA's arithmetic") {
  std::mt19937 random(1);
  for (const Dtype dtype : kDtypes)
    for (const auto& [rows, cols] : Shapes{{1, 1}, {3, 7}, {2, 8}, {5, 63}, {4, 64}, {3, 1000}, {2, 2056}, {1, 2049}, {2, 4104}})
      for (const std::size_t shift : {0, 4}) {  // a panel of rows, a view: not always on 16 bytes
        CAPTURE(cols);
        Floats values = random_values(rows * cols, random, 0.05f);
        for (int c = 0; c < cols; ++c) values[static_cast<std::size_t>((rows - 1) * cols + c)] *= rows > 2 ? 0.0f : 1.0f;
        values[0] = 1e-6f;                                                  // subnormal in float16
        if (cols > 100) values[static_cast<std::size_t>(cols / 2)] = 3e5f;  // infinite in float16
        const auto source = stored(values, dtype, shift);
        Memory<std::int8_t> codes(rows * cols, shift), expected_codes(rows * cols);
        Memory<float> scales(rows), expected_scales(rows);
        on_cpu::quantize_rows(source.get(), dtype, rows, cols, codes.get(), scales.get(), kHere);
        available_kernels().front()->quantize_rows(source.get(), dtype, 0, rows, cols, expected_codes.get(), expected_scales.get());
        CHECK(codes == expected_codes);
        CHECK(scales == expected_scales);
      }
}

TEST_CASE("activations: codes, scales and outlier columns are the CPU's, in one launch or with marks of their own") {
  std::mt19937 random(2);
  for (const Dtype dtype : kDtypes)
    for (const std::int64_t rows : {1, 2, 7, 16, 17, 40, 67})
      for (const std::int64_t cols : {1, 9, 31, 64, 200, 2112, 2050}) {
        if (rows > 17 && cols > 200) continue;
        for (const float threshold : {0.0f, 6.0f, 1.5f}) {  // none, few, most columns
          CAPTURE(rows);
          CAPTURE(cols);
          CAPTURE(threshold);
          Floats values = random_values(rows * cols, random, 1.3f);
          for (int i = 0; i < 3; ++i) values[random() % values.size()] = i == 0 ? 6.0f : -40.0f;  // the threshold itself is an outlier
          Both both(values, dtype, rows, cols, threshold, random() % 2 * 4);
          CHECK(both.agree());
        }
      }
  // More columns than fit the marks of one block, and values that are no numbers.
  const std::int64_t cols = on_cpu::kMarkWords * 32 + 40;
  Floats values = random_values(cols, random, 1);
  values[5] = 7, values[static_cast<std::size_t>(cols - 1)] = -8;
  CHECK(Both(values, Dtype::Bf16, 1, cols, 6.0f).agree());
  for (const float strange : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), 1e-44f}) {
    values.assign(3 * 70, 0.5f);
    values[75] = strange;
    CHECK(Both(values, Dtype::F32, 3, 70, 6.0f).agree());
  }
}

TEST_CASE("accumulators are the CPU's, bit by bit: few rows and many, whole and ragged tiles") {
  std::mt19937 random(3);
  for (const std::int64_t m : {1, 3, 8, 9, 16, 17, 64, 65, 130})
    for (const auto& [rows, cols] : Shapes{{1, 1}, {16, 64}, {17, 96}, {40, 80}, {130, 208}, {33, 1040}, {131, 61}, {7, 570}}) {
      if (m > 17 && cols > 600) continue;
      CAPTURE(m);
      CAPTURE(rows);
      CAPTURE(cols);
      const Quantized weight(rows, cols, random, random() % 3 == 0 ? 4 : 0);
      Both both(random_values(m * cols, random, 2), Dtype::F16, m, cols, 6.0f);
      Memory<std::int32_t> sums(m * rows), expected(m * rows);
      on_cpu::accumulate(weight.view, both.input, sums.get(), kHere);
      available_kernels().front()->accumulate(weight.view, both.expected, 0, rows, nullptr, expected.get(), rows);
      CHECK(sums == expected);
    }
}

TEST_CASE("products: accumulators, scales and outlier columns, in each dtype") {
  std::mt19937 random(4);
  for (const Dtype dtype : kDtypes)
    for (const std::int64_t m : {1, 5, 8, 13, 16, 20, 70})
      for (const auto& [rows, cols] : Shapes{{5, 24}, {48, 128}, {133, 200}, {31, 333}})
        for (const float threshold : {0.0f, 6.0f, 2.5f}) {  // at 2.5 more outlier columns than one pass takes
          CAPTURE(m);
          CAPTURE(rows);
          CAPTURE(cols);
          CAPTURE(threshold);
          const Quantized weight(rows, cols, random);
          Floats values = random_values(m * cols, random, 1);
          values[random() % values.size()] = 30;
          Both both(values, dtype, m, cols, threshold);
          REQUIRE(both.agree());
          Memory<unsigned char> y(m * rows * static_cast<std::int64_t>(size_of(dtype)));
          on_cpu::multiply(weight.view, both.input, y.get(), dtype, kHere);
          double worst = 0;
          for (std::int64_t i = 0; i < m; ++i)
            for (std::int64_t n = 0; n < rows; ++n) {
              double sum = 0, apart = 0, size = 1e-6;
              for (std::int64_t c = 0; c < cols; ++c) {
                const double w = weight.view.codes[n * cols + c];
                sum += w * both.expected_codes[i * both.input.stride + c];
                if (std::binary_search(both.outliers.begin(), both.outliers.end(), c)) {
                  const double product = w * as(dtype, values[static_cast<std::size_t>(i * cols + c)]);
                  apart += product, size += std::fabs(product);
                }
              }
              const double unit = weight.view.scales[n] / 127, x_unit = both.expected_scales[i] / 127;
              const double exact = (sum * x_unit + apart) * unit;
              const double got = loaded(y.get(), dtype, static_cast<std::size_t>(i * rows + n));
              // Products and sums in float32, then one rounding to the dtype.
              const double allowed = 4e-6 * unit * (std::fabs(sum) * x_unit + size) +
                                     std::fabs(exact) * (dtype == Dtype::F32    ? 1e-6
                                                         : dtype == Dtype::Bf16 ? 0x1p-8
                                                                                : 0x1p-11) +
                                     1e-7;
              worst = std::max(worst, std::fabs(got - exact) / allowed);
            }
          CHECK(worst <= 1);
        }
}

TEST_CASE("dequantized rows are the CPU's, bit by bit, in order and by their numbers") {
  std::mt19937 random(5);
  for (const Dtype dtype : kDtypes)
    for (const auto& [rows, cols] : Shapes{{1, 1}, {9, 24}, {11, 61}, {6, 2056}})
      for (const std::size_t shift : {0, 4}) {
        const Quantized weight(rows, cols, random, shift);
        const std::int64_t begin = rows / 3, count = rows - begin, bytes = cols * static_cast<std::int64_t>(size_of(dtype));
        Memory<unsigned char> out(count * bytes, shift), expected(count * bytes);
        on_cpu::dequantize(weight.view, begin, rows, dtype, out.get(), kHere);
        available_kernels().front()->dequantize(weight.view, begin, rows, dtype, expected.get());
        CHECK(out == expected);
        Memory<std::int64_t> ids(5);
        for (int i = 0; i < 5; ++i) ids[i] = static_cast<std::int64_t>(random() % static_cast<unsigned>(rows));
        ids[3] = rows, ids[4] = -1;
        Memory<unsigned char> gathered(5 * bytes), row(bytes);
        on_cpu::gather_rows(weight.view, ids.get(), 5, dtype, gathered.get(), kHere);
        for (int i = 0; i < 3; ++i) {
          available_kernels().front()->dequantize(weight.view, ids[i], ids[i] + 1, dtype, row.get());
          CHECK(std::memcmp(gathered.get() + i * bytes, row.get(), static_cast<std::size_t>(bytes)) == 0);
        }
        for (std::int64_t c = 0; c < 2 * cols; ++c)
          CHECK(std::isnan(loaded(gathered.get() + 3 * bytes, dtype, static_cast<std::size_t>(c))));
      }
}
