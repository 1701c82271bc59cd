#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels.h"
#include "kernels_internal.h"

using namespace tenon::nf4;

namespace {

constexpr Dtype kDtypes[] = {Dtype::F32, Dtype::Bf16, Dtype::F16};
constexpr Codebook kCodebooks[] = {Codebook::Nf4, Codebook::Fp4};
constexpr std::int32_t kBlocks[] = {32, 64, 128, 256, 1024, 4096};
using Bytes = std::vector<std::uint8_t>;
using Floats = std::vector<float>;

std::size_t element_size(Dtype dtype) { return dtype == Dtype::F32 ? 4 : 2; }

Bytes converted(const Floats& values, Dtype dtype) {
  Bytes out(values.size() * element_size(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    detail::store_element(out.data(), dtype, static_cast<std::int64_t>(i), values[i]);
  }
  return out;
}

Floats random_values(std::size_t count, float spread, std::mt19937& random) {
  std::normal_distribution<float> normal(0, spread);
  Floats values(count);
  for (float& value : values) value = normal(random);
  return values;
}

bool same_bits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct Quantized {
  Bytes codes;
  Floats absmax;
  Bytes absmax_codes;
  Floats nested_absmax;
  float offset = 0;
  Weight view{};
};

Quantized quantized(const Kernels& kernels, const Bytes& source, Dtype dtype, Codebook codebook, std::int32_t block, std::int64_t rows,
                    std::int64_t cols, bool nested) {
  const std::int64_t count = rows * cols;
  const auto blocks = static_cast<std::size_t>(block_count(count, block));
  Quantized q;
  q.codes.resize(static_cast<std::size_t>(code_bytes(count)));
  q.absmax.resize(blocks);
  kernels.quantize(source.data(), dtype, count, codebook, block, q.codes.data(), q.absmax.data());
  if (nested) {
    q.absmax_codes.resize(blocks);
    q.nested_absmax.resize(static_cast<std::size_t>(block_count(static_cast<std::int64_t>(blocks), kNestedBlock)));
    q.offset = mean_absmax(q.absmax.data(), static_cast<std::int64_t>(blocks));
    quantize_absmax(q.absmax.data(), static_cast<std::int64_t>(blocks), q.offset, q.absmax_codes.data(), q.nested_absmax.data());
  }
  q.view = Weight{q.codes.data(),
                  nested ? nullptr : q.absmax.data(),
                  nested ? q.absmax_codes.data() : nullptr,
                  q.nested_absmax.data(),
                  q.offset,
                  codebook,
                  block,
                  rows,
                  cols};
  return q;
}

Floats dequantized(const Kernels& kernels, const Weight& weight) {
  Floats out(static_cast<std::size_t>(weight.rows * weight.cols));
  kernels.dequantize(weight, 0, weight.rows * weight.cols, Dtype::F32, out.data());
  return out;
}

struct AlignedDelete {
  void operator()(void* p) const { std::free(p); }
};

// y in float32, computed in two ranges of rows.
Floats multiplied(const Kernels& kernels, const Weight& weight, const Bytes& x, Dtype x_dtype, std::int64_t m) {
  const std::size_t bytes = (kernels.activation_bytes(weight, x_dtype, m) + 63) / 64 * 64;
  const std::unique_ptr<void, AlignedDelete> packed(std::aligned_alloc(kActivationAlignment, bytes));
  kernels.pack_activation(weight, x.data(), x_dtype, m, weight.cols, packed.get());
  Floats y(static_cast<std::size_t>(m * weight.rows), std::numeric_limits<float>::quiet_NaN());
  const std::int64_t cut = weight.rows / 3;
  kernels.multiply(weight, packed.get(), x_dtype, m, 0, cut, y.data(), Dtype::F32, weight.rows);
  kernels.multiply(weight, packed.get(), x_dtype, m, cut, weight.rows, y.data(), Dtype::F32, weight.rows);
  return y;
}

// What hurts a blockwise quantizer.
Floats awkward_values(int kind, std::size_t count, std::mt19937& random) {
  Floats values = random_values(count, 0.02f, random);
  const std::size_t at = random() % count;
  switch (kind) {
    case 1: std::fill(values.begin(), values.end(), 0.0f); break;
    case 2: std::fill(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(count / 2), -0.0f); break;
    case 3: values[at] = -5e4f; break;
    case 4: values[at] = std::numeric_limits<float>::quiet_NaN(); break;
    case 5: values[at] = std::numeric_limits<float>::infinity(); break;
    case 6: values[at] = -std::numeric_limits<float>::infinity(); break;
    case 7:
      for (float& value : values) value *= 1e-37f;
      break;
    case 8:
      for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 17) - 8) / 8;
      break;
    default: break;
  }
  return values;
}
constexpr int kAwkward = 9;

void report_missing_kernels() {
  for (const char* name : {"avx2", "avx512", "avx512bf16"}) {
    bool found = false;
    for (const Kernels* candidate : available_kernels()) found = found || std::string(candidate->name) == name;
    if (!found) MESSAGE("SKIP kernels ", name, ": this processor or build lacks them");
  }
}

}  // namespace

TEST_CASE("nf4 kernels of every kind quantize and dequantize to the same bits") {
  report_missing_kernels();
  std::mt19937 random(20240607);
  const Kernels& portable = *available_kernels().front();
  for (int trial = 0; trial < 270; ++trial) {
    const Dtype dtype = kDtypes[trial % 3];
    const Codebook codebook = kCodebooks[random() % 2];
    const std::int32_t block = kBlocks[random() % 6];
    const bool nested = random() % 2 == 0;
    const std::int64_t rows = 1 + random() % 40;
    const std::int64_t cols = random() % 2 == 0 ? 1 + random() % 700 : 32 * (1 + random() % 20);
    const int kind = trial / 3 % kAwkward;
    const Bytes source = converted(awkward_values(kind, static_cast<std::size_t>(rows * cols), random), dtype);
    const Quantized expected = quantized(portable, source, dtype, codebook, block, rows, cols, nested);
    for (const Kernels* kernels : available_kernels()) {
      CAPTURE(kernels->name);
      CAPTURE(trial);
      const Quantized got = quantized(*kernels, source, dtype, codebook, block, rows, cols, nested);
      CHECK(got.codes == expected.codes);
      CHECK(same_bits(got.absmax, expected.absmax));
      CHECK(got.absmax_codes == expected.absmax_codes);
      for (Dtype out_dtype : kDtypes) {
        const std::int64_t begin = random() % (rows * cols);
        const std::int64_t count = 1 + random() % (rows * cols - begin);
        Bytes whole(static_cast<std::size_t>(rows * cols) * element_size(out_dtype));
        Bytes part(static_cast<std::size_t>(count) * element_size(out_dtype));
        portable.dequantize(expected.view, 0, rows * cols, out_dtype, whole.data());
        kernels->dequantize(expected.view, begin, count, out_dtype, part.data());
        CHECK(std::memcmp(part.data(), whole.data() + static_cast<std::size_t>(begin) * element_size(out_dtype), part.size()) == 0);
      }
    }
  }
}

TEST_CASE("nf4 kernels choose the nearest code, the lower one on a tie, and keep a tensor's ends") {
  for (const Kernels* kernels : available_kernels()) {
    CAPTURE(kernels->name);
    for (Codebook codebook : kCodebooks) {
      const auto values = code_values(codebook);
      std::mt19937 random(1);
      Floats source(4096);
      std::uniform_real_distribution<float> uniform(-1, 1);
      for (float& value : source) value = uniform(random);
      for (std::size_t i = 0; i < source.size(); i += 64) source[i] = 1.0f;  // absmax 1: scaled values are the values
      const Quantized q = quantized(*kernels, converted(source, Dtype::F32), Dtype::F32, codebook, 64, 64, 64, false);
      const Floats back = dequantized(*kernels, q.view);
      for (std::size_t i = 0; i < source.size(); ++i) {
        float nearest = 2;
        for (float value : values) nearest = std::min(nearest, std::abs(value - source[i]));
        // Midpoints are rounded to float32: off by at most half a unit in the last place of 1.
        CHECK(std::abs(back[i] - source[i]) <= nearest + 0x1p-24f);
      }
    }
    // NF4's bound between 0 and the next code is a tie there; an odd last nibble holds the code of zero.
    const float bound = (code_values(Codebook::Nf4)[7] + code_values(Codebook::Nf4)[8]) / 2;
    Floats source(33, bound);
    source[1] = 1.0f;
    source[32] = -3.0f;
    const Quantized q = quantized(*kernels, converted(source, Dtype::F32), Dtype::F32, Codebook::Nf4, 32, 1, 33, false);
    CHECK(q.codes[0] == 0x7f);
    CHECK(q.codes[1] == 0x77);
    CHECK(q.codes[16] == 0x07);
    CHECK(q.absmax[0] == 1.0f);
    CHECK(q.absmax[1] == 3.0f);
    // Zero blocks: a full one keeps absmax 0, the short last one gets the least divisor, as bitsandbytes stores them.
    const Quantized zero = quantized(*kernels, Bytes(4 * 40), Dtype::F32, Codebook::Nf4, 32, 1, 40, false);
    CHECK(zero.absmax == Floats{0.0f, 1e-38f});
    CHECK(zero.codes == Bytes(20, 0x77));
  }
}

TEST_CASE("nested absmax values: the codes are the dynamic map's, and a range is part of the whole") {
  const auto map = nested_code_values();
  auto bits = [&](std::size_t i) { return std::bit_cast<std::uint32_t>(map[i]); };
  CHECK(bits(0) == 0xbf7e3333);
  CHECK(bits(20) == 0xbf363334);  // among those that depend on how linspace rounds
  CHECK(bits(127) == 0);
  CHECK(bits(128) == 0x3513a3b7);
  CHECK(bits(192) == 0x3df80000);
  CHECK(bits(255) == 0x3f800000);
  for (std::size_t i = 1; i < map.size(); ++i) CHECK(map[i - 1] < map[i]);

  std::mt19937 random(3);
  Floats absmax = random_values(1000, 0.01f, random);
  for (float& value : absmax) value = std::abs(value) + 0.02f;
  const float offset = mean_absmax(absmax.data(), 1000);
  Bytes codes(1000), again(1000);
  Floats nested(4), nested_again(4), back(1000);
  quantize_absmax(absmax.data(), 1000, offset, codes.data(), nested.data());
  quantize_absmax(absmax.data(), 512, offset, again.data(), nested_again.data());
  quantize_absmax(absmax.data() + 512, 488, offset, again.data() + 512, nested_again.data() + 2);
  CHECK(codes == again);
  CHECK(nested == nested_again);
  dequantize_absmax(codes.data(), nested.data(), offset, 1000, back.data());
  for (std::size_t i = 0; i < back.size(); ++i) {
    // Steps of the map are at most 0.9 / 64 wide; the search grid of 1 / 65535 may miss the nearest by one more of those.
    CHECK(std::abs(back[i] - absmax[i]) <= nested[i / 256] * (0.9f / 128 + 1.0f / 32768));
  }
}

// Values from a generator that any language repeats exactly: multiples of 2^-24 in [-0.5, 0.5).
Floats repeatable_values(std::size_t count) {
  std::uint32_t state = 1;
  Floats values(count);
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(state >> 8) * 0x1p-24f - 0.5f;
  }
  return values;
}

std::uint64_t fnv_hash(const void* data, std::size_t bytes) {
  std::uint64_t hash = 14695981039346656037u;
  for (std::size_t i = 0; i < bytes; ++i) hash = (hash ^ static_cast<const std::uint8_t*>(data)[i]) * 1099511628211u;
  return hash;
}

TEST_CASE("the mean of absmax values adds in torch's order, at every level of the sum") {
  struct Golden {
    std::int64_t count;
    std::uint32_t bits;  // torch 2.11 on one thread
  };
  Floats values = repeatable_values(40007);
  for (float& value : values) value += 0.5f;
  for (const Golden& golden : {Golden{5, 0x3ebf0436}, Golden{100, 0x3f01a2b6}, Golden{4099, 0x3efecf51}, Golden{40007, 0x3eff05fc}}) {
    CAPTURE(golden.count);
    CHECK(std::bit_cast<std::uint32_t>(mean_absmax(values.data(), golden.count)) == golden.bits);
  }
}

TEST_CASE("nf4 and fp4 tensors are bitsandbytes' to the bit") {
  // Hashes of what bitsandbytes 0.50.2 makes of the same values on its CPU backend (block 64, one thread): one block of
  // zeros, one of small values that begins with a zero, and a short odd end.
  Floats values = repeatable_values(40007);
  for (std::size_t i = 0; i < 128; ++i) values[i] *= i <= 64 ? 0.0f : 0.001f;
  for (const Kernels* kernels : available_kernels()) {
    CAPTURE(kernels->name);
    for (Codebook codebook : kCodebooks) {
      const Quantized q = quantized(*kernels, converted(values, Dtype::F32), Dtype::F32, codebook, 64, 1, 40007, true);
      CHECK(fnv_hash(q.codes.data(), q.codes.size()) == (codebook == Codebook::Nf4 ? 0xa65cc79d554afb2u : 0x365d3389068242dbu));
      CHECK(fnv_hash(q.absmax.data(), q.absmax.size() * 4) == 0xe53f955ba7c4089du);
      CHECK(fnv_hash(q.absmax_codes.data(), q.absmax_codes.size()) == 0x9cec17ca5848cd7au);
      CHECK(fnv_hash(q.nested_absmax.data(), q.nested_absmax.size() * 4) == 0x594989072cdb69bcu);
      CHECK(std::bit_cast<std::uint32_t>(q.offset) == 0x3efb241d);
    }
  }
}

TEST_CASE("fused products are those of a float64 oracle") {
  std::mt19937 random(11);
  struct Shape {
    std::int64_t rows, cols;
    std::int32_t block;
  };
  // Whole groups, every remainder of a group, more than one panel of absmax values, rows that begin inside a block, odd rows.
  const Shape shapes[] = {{5, 128, 64},  {7, 32, 32},     {6, 160, 32},    {3, 192, 64},  {9, 224, 32}, {4, 8224, 32},  {3, 16448, 64},
                          {5, 640, 128}, {2, 8192, 4096}, {3, 9216, 1024}, {11, 100, 64}, {7, 33, 32},  {4, 1055, 128}, {1, 64, 64}};
  for (const Shape& shape : shapes) {
    for (Codebook codebook : kCodebooks) {
      for (bool nested : {false, true}) {
        const auto count = static_cast<std::size_t>(shape.rows * shape.cols);
        const Bytes source = converted(random_values(count, 0.02f, random), Dtype::F32);
        const Kernels& portable = *available_kernels().front();
        const Quantized q = quantized(portable, source, Dtype::F32, codebook, shape.block, shape.rows, shape.cols, nested);
        const Floats weights = dequantized(portable, q.view);
        for (Dtype x_dtype : kDtypes) {
          for (std::int64_t m : {1, 2, 3, 4, 5, 8, 16, 19}) {
            const Bytes x = converted(random_values(static_cast<std::size_t>(m * shape.cols), 1.0f, random), x_dtype);
            for (const Kernels* kernels : available_kernels()) {
              const Floats y = multiplied(*kernels, q.view, x, x_dtype, m);
              double worst = 0;
              for (std::int64_t i = 0; i < m; ++i) {
                for (std::int64_t n = 0; n < shape.rows; ++n) {
                  double exact = 0, size = 0;
                  for (std::int64_t k = 0; k < shape.cols; ++k) {
                    const double term = static_cast<double>(detail::load_element(x.data(), x_dtype, i * shape.cols + k)) *
                                        weights[static_cast<std::size_t>(n * shape.cols + k)];
                    exact += term;
                    size += std::abs(term);
                  }
                  worst = std::max(worst, std::abs(y[static_cast<std::size_t>(i * shape.rows + n)] - exact) / size);
                }
              }
              // Float32 sums over at most 129 groups in 16 lanes: far below 2^-20 of the summed magnitudes. With bfloat16
              // pairs the code values carry an error of at most 2^-9.
              const bool in_bf16 = std::string(kernels->name) == "avx512bf16" && x_dtype == Dtype::Bf16;
              CAPTURE(kernels->name);
              CAPTURE(shape.rows);
              CAPTURE(shape.cols);
              CAPTURE(m);
              CHECK(worst <= (in_bf16 ? 0x1p-9 : 0x1p-20));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("a product does not depend on its neighbours: rows and batches may be cut anywhere") {
  std::mt19937 random(5);
  const std::int64_t rows = 13, cols = 352, m = 11;
  for (Dtype x_dtype : kDtypes) {
    for (const Kernels* kernels : available_kernels()) {
      CAPTURE(kernels->name);
      const Bytes source = converted(random_values(static_cast<std::size_t>(rows * cols), 0.02f, random), Dtype::F32);
      const Quantized q = quantized(*kernels, source, Dtype::F32, Codebook::Nf4, 32, rows, cols, true);
      const Bytes x = converted(random_values(static_cast<std::size_t>(m * cols), 1.0f, random), x_dtype);
      const Floats all = multiplied(*kernels, q.view, x, x_dtype, m);
      for (std::int64_t i = 0; i < m; ++i) {
        const auto row_bytes = static_cast<std::ptrdiff_t>(static_cast<std::size_t>(cols) * element_size(x_dtype));
        const Bytes one(x.begin() + i * row_bytes, x.begin() + (i + 1) * row_bytes);
        const Floats y = multiplied(*kernels, q.view, one, x_dtype, 1);
        CHECK(same_bits(y, Floats(all.begin() + i * rows, all.begin() + (i + 1) * rows)));
      }
    }
  }
}

TEST_CASE("products are rounded to the type asked for, at the stride asked for, and nothing else is written") {
  std::mt19937 random(8);
  const std::int64_t rows = 6, cols = 256, m = 3, stride = 9;
  const Bytes source = converted(random_values(static_cast<std::size_t>(rows * cols), 0.02f, random), Dtype::F32);
  const Bytes x = converted(random_values(static_cast<std::size_t>(m * cols), 1.0f, random), Dtype::F32);
  for (const Kernels* kernels : available_kernels()) {
    const Quantized q = quantized(*kernels, source, Dtype::F32, Codebook::Nf4, 64, rows, cols, false);
    const Floats exact = multiplied(*kernels, q.view, x, Dtype::F32, m);
    const std::size_t bytes = (kernels->activation_bytes(q.view, Dtype::F32, m) + 63) / 64 * 64;
    const std::unique_ptr<void, AlignedDelete> packed(std::aligned_alloc(kActivationAlignment, bytes));
    kernels->pack_activation(q.view, x.data(), Dtype::F32, m, cols, packed.get());
    std::vector<std::uint16_t> y(static_cast<std::size_t>(m * stride), 0xabcd);
    kernels->multiply(q.view, packed.get(), Dtype::F32, m, 1, 5, y.data(), Dtype::Bf16, stride);
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t n = 0; n < stride; ++n) {
        const bool is_written = n >= 1 && n < 5;
        const std::uint16_t expected = is_written ? detail::to_bf16(exact[static_cast<std::size_t>(i * rows + n)]) : 0xabcd;
        CHECK(y[static_cast<std::size_t>(i * stride + n)] == expected);
      }
    }
  }
}

TEST_CASE("half conversions of the portable kernels round to nearest even") {
  CHECK(detail::to_bf16(1.00390625f) == 0x3f80);  // halfway, to even
  CHECK(detail::to_bf16(1.01171875f) == 0x3f82);
  CHECK(detail::to_f16(65519.0f) == 0x7bff);
  CHECK(detail::to_f16(65520.0f) == 0x7c00);
  CHECK(detail::to_f16(0x1p-25f) == 0x0000);  // halfway to the least subnormal
  CHECK(detail::to_f16(0x1.8p-25f) == 0x0001);
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = detail::from_f16(static_cast<std::uint16_t>(bits));
    if (std::isnan(value)) continue;
    CHECK(detail::to_f16(value) == bits);
  }
}

TEST_CASE("the kernels that run are among those available") {
  bool found = false;
  for (const Kernels* candidate : available_kernels()) found = found || candidate == &kernels();
  CHECK(found);
  if (const char* wanted = std::getenv("TENON_CPU"); wanted != nullptr && *wanted != '\0') {
    CHECK(std::string(kernels().name) == wanted);
  }
  MESSAGE("kernels in use: ", std::string(kernels().name));
}
