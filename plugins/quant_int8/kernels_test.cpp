// Every table of kernels that this machine can run, against plain loops.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels.h"
#include "kernels_convert.h"

using namespace tenon::int8;

namespace {

using Floats = std::vector<float>;
using Codes = std::vector<std::int8_t>;

constexpr Dtype kDtypes[] = {Dtype::F32, Dtype::Bf16, Dtype::F16};
constexpr std::pair<std::int64_t, std::int64_t> kShapes[] = {{1, 1},    {3, 7},    {5, 63},   {4, 64},   {9, 65},
                                                             {2, 1024}, {7, 1025}, {33, 200}, {6, 2100}, {70, 130}};

float as_half(float f) { return from_f16(to_f16(f)); }
float as(Dtype dtype, float f) { return dtype == Dtype::F32 ? f : dtype == Dtype::Bf16 ? from_bf16(to_bf16(f)) : as_half(f); }

std::vector<std::uint8_t> stored(const Floats& values, Dtype dtype) {
  std::vector<std::uint8_t> out(values.size() * (dtype == Dtype::F32 ? 4 : 2));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (dtype == Dtype::F32) {
      std::memcpy(out.data() + 4 * i, &values[i], 4);
    } else {
      const std::uint16_t half = dtype == Dtype::Bf16 ? to_bf16(values[i]) : to_f16(values[i]);
      std::memcpy(out.data() + 2 * i, &half, 2);
    }
  }
  return out;
}

Floats random_values(std::int64_t count, unsigned seed, float spread = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  Floats values(static_cast<std::size_t>(count));
  for (float& v : values) v = normal(random);
  return values;
}

// Rows that begin on 64 bytes, as the wrapper's tensors do.
struct Input {
  std::vector<std::int64_t> outliers;
  std::vector<std::int8_t> memory;
  Floats scales, values;
  std::vector<std::int32_t> sums;
  Activation view{};

  Input(const Kernels& k, const Floats& x, Dtype dtype, std::int64_t rows, std::int64_t cols, float threshold) {
    const auto bytes = stored(x, dtype);
    std::vector<std::uint8_t> is_outlier(static_cast<std::size_t>(cols));
    if (threshold > 0) k.find_outliers(bytes.data(), dtype, 0, rows, cols, threshold, is_outlier.data());
    for (std::int64_t c = 0; c < cols; ++c)
      if (is_outlier[static_cast<std::size_t>(c)]) outliers.push_back(c);
    const std::int64_t stride = row_stride(cols), count = static_cast<std::int64_t>(outliers.size());
    memory.resize(static_cast<std::size_t>(rows * stride + 64));
    auto* codes = memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) % 64;
    scales.resize(static_cast<std::size_t>(rows)), sums.resize(static_cast<std::size_t>(rows));
    for (std::int64_t row = 0; row < rows; row += 3)  // in parts
      k.quantize_activation(bytes.data(), dtype, row, std::min(rows, row + 3), cols, threshold, outliers.data(), count, codes,
                            scales.data(), sums.data());
    for (std::int64_t row = 0; row < rows; ++row)
      for (const std::int64_t c : outliers) values.push_back(as(dtype, x[static_cast<std::size_t>(row * cols + c)]));
    view = {codes, scales.data(), sums.data(), rows, stride, outliers.data(), count, values.data(), nullptr};
  }
};

}  // namespace

TEST_CASE("rows of a weight: scales and codes are those of the definition, in every table") {
  for (const Kernels* k : available_kernels())
    for (const Dtype dtype : kDtypes)
      for (const auto& [rows, cols] : kShapes) {
        CAPTURE(std::string(k->name));
        CAPTURE(cols);
        Floats w = random_values(rows * cols, 1, 0.05f);
        for (std::int64_t c = 0; c < cols; ++c) w[static_cast<std::size_t>((rows - 1) * cols + c)] = 0;  // a row of zeros
        w[0] = 1e-6f;                                                                                    // subnormal in float16
        const auto bytes = stored(w, dtype);
        Codes codes(w.size(), 99);
        Floats scales(static_cast<std::size_t>(rows), -1);
        for (std::int64_t row = 0; row < rows; row += 2)
          k->quantize_rows(bytes.data(), dtype, row, std::min(rows, row + 2), cols, codes.data(), scales.data());
        bool equal = true;
        for (std::int64_t row = 0; row < rows; ++row) {
          float largest = 0;
          for (std::int64_t c = 0; c < cols; ++c)
            largest = std::max(largest, std::fabs(as_half(as(dtype, w[static_cast<std::size_t>(row * cols + c)]))));
          equal = equal && scales[static_cast<std::size_t>(row)] == largest;
          for (std::int64_t c = 0; c < cols; ++c) {
            const auto i = static_cast<std::size_t>(row * cols + c);
            const float code = largest > 0 ? std::nearbyintf(as_half(as(dtype, w[i])) * (1.0f / largest * 127.0f)) : 0;
            equal = equal && static_cast<float>(codes[i]) == code;
          }
        }
        CHECK(equal);
      }
}

TEST_CASE("activations: outliers count as zero, their columns lose their codes, the rest scales by what is left") {
  for (const Kernels* k : available_kernels())
    for (const Dtype dtype : kDtypes)
      for (const auto& [rows, cols] : kShapes) {
        CAPTURE(std::string(k->name));
        Floats x = random_values(rows * cols, 2);
        for (float& v : x) v = as_half(as(dtype, std::min(std::max(v, -3.0f), 3.0f)));
        x[0] = 6.0f;  // the threshold itself is an outlier
        x[x.size() / 2] = -40.0f;
        const Input input(*k, x, dtype, rows, cols, 6.0f);
        std::vector<std::int64_t> expected;
        for (std::int64_t c = 0; c < cols; ++c)
          for (std::int64_t row = 0; row < rows; ++row)
            if (std::fabs(x[static_cast<std::size_t>(row * cols + c)]) >= 6.0f) {
              expected.push_back(c);
              break;
            }
        CHECK((input.outliers == expected));
        bool equal = true;
        for (std::int64_t row = 0; row < rows; ++row) {
          float largest = 0;
          std::int32_t sum = 0;
          for (std::int64_t c = 0; c < cols; ++c) {
            const float v = x[static_cast<std::size_t>(row * cols + c)];
            if (std::fabs(v) < 6.0f) largest = std::max(largest, std::fabs(v));
          }
          for (std::int64_t c = 0; c < input.view.stride; ++c) {
            float code = 0;
            if (c < cols && largest > 0 && std::find(expected.begin(), expected.end(), c) == expected.end())
              code = std::nearbyintf(x[static_cast<std::size_t>(row * cols + c)] * (1.0f / largest * 127.0f));
            equal = equal && static_cast<float>(input.view.codes[row * input.view.stride + c]) == code;
            sum += static_cast<std::int32_t>(code);
          }
          equal = equal && input.scales[static_cast<std::size_t>(row)] == largest && input.sums[static_cast<std::size_t>(row)] == sum;
        }
        CHECK(equal);
      }
}

TEST_CASE("accumulators are the exact integers, whatever the codes") {
  std::mt19937 random(3);
  std::uniform_int_distribution<int> byte(-128, 127);
  for (const Kernels* k : available_kernels())
    for (const auto& [out, in] : kShapes)
      for (const std::int64_t rows : {1, 2, 3, 4, 5, 8, 11, 31}) {
        CAPTURE(std::string(k->name));
        CAPTURE(in);
        Codes codes(static_cast<std::size_t>(out * in));
        for (auto& c : codes) c = static_cast<std::int8_t>(byte(random));
        codes[0] = -128;
        const Floats scales(static_cast<std::size_t>(out), 1.0f);
        Floats x = random_values(rows * in, 4);
        const Input input(*k, x, Dtype::F32, rows, in, 0);
        const Weight weight{codes.data(), scales.data(), out, in};
        std::vector<std::int32_t> sums(static_cast<std::size_t>(rows * out));
        const std::int64_t cut = out / 2;
        if (cut > 0) k->accumulate(weight, input.view, 0, cut, nullptr, sums.data(), out);
        k->accumulate(weight, input.view, cut, out, nullptr, sums.data() + cut, out);
        bool equal = true;
        for (std::int64_t m = 0; m < rows; ++m)
          for (std::int64_t n = 0; n < out; ++n) {
            std::int32_t sum = 0;
            for (std::int64_t c = 0; c < in; ++c)
              sum += std::int32_t{codes[static_cast<std::size_t>(n * in + c)]} * input.view.codes[m * input.view.stride + c];
            equal = equal && sums[static_cast<std::size_t>(m * out + n)] == sum;
          }
        CHECK(equal);
        if (k->packed_bytes == nullptr) continue;
        std::vector<std::int32_t> packed(sums.size());
        std::vector<std::uint8_t> scratch(static_cast<std::size_t>(k->packed_bytes(in)));
        if (cut > 0) k->accumulate(weight, input.view, 0, cut, scratch.data(), packed.data(), out);
        k->accumulate(weight, input.view, cut, out, scratch.data(), packed.data() + cut, out);
        CHECK((packed == sums));
      }
}

TEST_CASE(
    "gradients: 16 bits beside the largest of the row times the dequantized weight, equal in parts; a row that is not finite is NaN") {
  for (const Kernels* k : available_kernels())
    for (const Dtype dtype : kDtypes)
      for (const auto& [out, in] : kShapes)
        for (const std::int64_t rows : {1, 2, 7, 20}) {
          if (k->multiply_transposed == nullptr) continue;
          CAPTURE(std::string(k->name));
          CAPTURE(out);
          CAPTURE(in);
          const auto w = stored(random_values(out * in, 5, 0.1f), Dtype::F32);
          Codes codes(static_cast<std::size_t>(out * in));
          Floats scales(static_cast<std::size_t>(out));
          k->quantize_rows(w.data(), Dtype::F32, 0, out, in, codes.data(), scales.data());
          const Weight weight{codes.data(), scales.data(), out, in};
          Floats dy = random_values(rows * out, 7, 1e-3f);
          for (float& v : dy) v = as(dtype, v);
          if (rows == 7) dy[static_cast<std::size_t>(3 * out)] = std::numeric_limits<float>::infinity();
          if (rows == 20)
            for (std::int64_t n = 0; n < out; ++n) dy[static_cast<std::size_t>(5 * out + n)] = 0;

          const std::int64_t stride = row_stride(out);
          std::vector<std::int8_t> memory(static_cast<std::size_t>(2 * rows * stride), 99);
          Floats row_scales(static_cast<std::size_t>(rows));
          std::vector<std::int32_t> sums(static_cast<std::size_t>(2 * rows));
          const auto given = stored(dy, dtype);
          for (std::int64_t row = 0; row < rows; row += 3)
            k->quantize_gradient(given.data(), dtype, scales.data(), row, std::min(rows, row + 3), out, memory.data(), row_scales.data(),
                                 sums.data());
          const Gradient gradient{memory.data(), row_scales.data(), sums.data(), rows, stride};
          std::vector<std::uint8_t> scratch(static_cast<std::size_t>(k->packed_bytes(out)));
          Floats dx(static_cast<std::size_t>(rows * in), 55), again = dx;
          k->multiply_transposed(weight, gradient, 0, in, scratch.data(), dx.data(), Dtype::F32, in);
          const std::int64_t cut = in / 3;
          k->multiply_transposed(weight, gradient, 0, cut, scratch.data(), again.data(), Dtype::F32, in);
          k->multiply_transposed(weight, gradient, cut, in, scratch.data(), again.data(), Dtype::F32, in);
          CHECK(std::memcmp(dx.data(), again.data(), dx.size() * sizeof(float)) == 0);
          for (std::int64_t m = 0; m < rows; ++m) {
            const bool is_bad = rows == 7 && m == 3;
            double largest = 0;
            for (std::int64_t n = 0; n < out; ++n)
              largest = std::max(
                  largest, std::fabs(static_cast<double>(dy[static_cast<std::size_t>(m * out + n)]) * scales[static_cast<std::size_t>(n)]));
            bool is_right = true;
            for (std::int64_t c = 0; c < in; ++c) {
              double sum = 0, bound = 1e-30;
              for (std::int64_t n = 0; n < out; ++n) {
                const double code = codes[static_cast<std::size_t>(n * in + c)];
                sum += static_cast<double>(dy[static_cast<std::size_t>(m * out + n)]) * scales[static_cast<std::size_t>(n)] * code / 127;
                // Half a step, and the float32 roundings on the way to it, for each product.
                bound += largest * std::fabs(code) / 127 * (0.502 / kGradientStep);
              }
              const float got = dx[static_cast<std::size_t>(m * in + c)];
              is_right = is_right && (is_bad ? std::isnan(got) : std::fabs(got - sum) <= bound + 1e-6 * std::fabs(sum));
            }
            CHECK(is_right);
          }
        }
}

TEST_CASE("products: codes and outliers together, outliers beside or given, equal in parts") {
  for (const Kernels* k : available_kernels())
    for (const Dtype dtype : kDtypes)
      for (const auto& [out, in] : kShapes)
        for (const std::int64_t rows : {1, 3, 6}) {
          CAPTURE(std::string(k->name));
          const auto w = stored(random_values(out * in, 5, 0.1f), Dtype::F32);
          Codes codes(static_cast<std::size_t>(out * in));
          Floats scales(static_cast<std::size_t>(out));
          k->quantize_rows(w.data(), Dtype::F32, 0, out, in, codes.data(), scales.data());
          const Weight weight{codes.data(), scales.data(), out, in};
          Floats x = random_values(rows * in, 6);
          x[static_cast<std::size_t>(in / 2)] = 50;
          Input input(*k, x, dtype, rows, in, 6.0f);
          REQUIRE(!input.outliers.empty());

          std::vector<std::uint8_t> y(static_cast<std::size_t>(rows * out) * 4), again = y;
          k->multiply(weight, input.view, 0, out, nullptr, y.data(), Dtype::F32, out);
          const std::int64_t cut = out / 3;
          if (cut > 0) k->multiply(weight, input.view, 0, cut, nullptr, again.data(), Dtype::F32, out);
          k->multiply(weight, input.view, cut, out, nullptr, again.data(), Dtype::F32, out);
          CHECK((y == again));

          Floats columns(static_cast<std::size_t>(out) * input.outliers.size()), product(static_cast<std::size_t>(rows * out));
          k->gather(weight, 0, out, input.outliers.data(), input.view.outliers, columns.data());
          double worst = 0, largest = 0;
          for (std::int64_t m = 0; m < rows; ++m)
            for (std::int64_t n = 0; n < out; ++n) {
              std::int64_t sum = 0;
              for (std::int64_t c = 0; c < in; ++c)
                sum += std::int64_t{codes[static_cast<std::size_t>(n * in + c)]} * input.view.codes[m * input.view.stride + c];
              double apart = 0;
              for (std::size_t i = 0; i < input.outliers.size(); ++i)
                apart += static_cast<double>(input.values[static_cast<std::size_t>(m) * input.outliers.size() + i]) *
                         columns[static_cast<std::size_t>(n) * input.outliers.size() + i];
              product[static_cast<std::size_t>(m * out + n)] = static_cast<float>(apart);
              const double scale =
                  static_cast<double>(input.scales[static_cast<std::size_t>(m)]) * scales[static_cast<std::size_t>(n)] / (127.0 * 127.0);
              float got;
              std::memcpy(&got, y.data() + 4 * (m * out + n), 4);
              worst = std::max(worst, std::fabs(got - (static_cast<double>(sum) * scale + apart)));
              largest = std::max(largest, std::fabs(static_cast<double>(sum) * scale) + std::fabs(apart));
            }
          CHECK(worst <= 1e-6 * largest);  // a handful of float32 roundings
          if (k->packed_bytes != nullptr) {
            std::vector<std::uint8_t> scratch(static_cast<std::size_t>(k->packed_bytes(in))), packed(y.size());
            k->multiply(weight, input.view, 0, out, scratch.data(), packed.data(), Dtype::F32, out);
            CHECK((packed == y));
          }
          input.view.outlier_product = product.data();
          k->multiply(weight, input.view, 0, out, nullptr, again.data(), Dtype::F32, out);
          worst = 0;
          for (std::size_t i = 0; i < product.size(); ++i) {
            float a, b;
            std::memcpy(&a, y.data() + 4 * i, 4), std::memcpy(&b, again.data() + 4 * i, 4);
            worst = std::max(worst, std::fabs(static_cast<double>(a) - b));
          }
          CHECK(worst <= 1e-6 * largest);
        }
}

TEST_CASE("dequantized rows, and codes that are no numbers' fault") {
  for (const Kernels* k : available_kernels())
    for (const Dtype dtype : kDtypes) {
      CAPTURE(std::string(k->name));
      const Codes codes{-128, -127, -1, 0, 1, 64, 127, 5};
      const Floats scales{0.37f, 2.0f};
      const Weight weight{codes.data(), scales.data(), 2, 4};
      std::vector<std::uint8_t> out(8 * 4);
      k->dequantize(weight, 0, 2, dtype, out.data());
      Floats expected;
      for (std::size_t i = 0; i < 8; ++i) expected.push_back(static_cast<float>(codes[i]) * (scales[i / 4] * (1.0f / 127.0f)));
      auto bytes = stored(expected, dtype);
      bytes.resize(out.size());
      CHECK((out == bytes));

      const float nan = std::numeric_limits<float>::quiet_NaN();
      const Floats w{nan, 1, 2, 3};
      Codes coded(4, 77);
      Floats scale(1);
      k->quantize_rows(w.data(), Dtype::F32, 0, 1, 4, coded.data(), scale.data());
      CHECK(std::isnan(scale[0]));  // said, not hidden: what comes out of such a row is no number
      CHECK((coded == Codes(4, 0)));
    }
}

TEST_CASE("the level that TENON_CPU names bounds the choice") {
  const char* wanted = std::getenv("TENON_CPU");
  if (wanted == nullptr || *wanted == '\0')
    CHECK(&kernels() == available_kernels().back());
  else if (std::string(wanted) == "portable" || std::string(wanted) == "avx2")
    CHECK(std::string(kernels().name) == wanted);
}
