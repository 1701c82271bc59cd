#include "kernels.h"

#include <doctest/doctest.h>
#include <bit>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "bits.h"

using namespace tenon::gptq;

namespace tenon::gptq::detail {
const Kernels& emulated_bf16_kernels();  // kernels_bf16_test.cpp
}

namespace {

// Those of this processor, and those for a newer one as far as they can be put together here.
std::vector<const Kernels*> all_kernels() {
  std::vector<const Kernels*> list(available_kernels().begin(), available_kernels().end());
  if (std::string_view(list.back()->name) == "avx512") list.push_back(&detail::emulated_bf16_kernels());
  return list;
}

// A weight of random codes, and what it means in float64.
struct Sample {
  std::vector<uint8_t> codes;
  std::vector<uint32_t> words;
  std::vector<uint16_t> scales;
  std::vector<uint8_t> zeros;
  std::vector<int32_t> order;
  std::vector<double> dense;  // [rows, cols], in the weight's order
  Weight weight;

  Sample(int bits, int64_t rows, int64_t cols, int64_t group, bool reordered) {
    std::mt19937 random(static_cast<unsigned>(bits * 1000 + cols + group));
    const int64_t groups = (cols + group - 1) / group;
    codes.resize(static_cast<size_t>(rows * cols)), words.resize(static_cast<size_t>(rows * cols * bits / 32));
    scales.resize(static_cast<size_t>(rows * groups)), zeros.resize(scales.size()), order.resize(static_cast<size_t>(cols));
    for (auto& c : codes) c = static_cast<uint8_t>(random() & ((1u << bits) - 1));
    for (auto& s : scales) s = static_cast<uint16_t>(0x2000 + random() % 0x0800);  // float16 from 2^-7 to 2^-5
    for (auto& z : zeros) z = static_cast<uint8_t>(random() & ((1u << bits) - 1));
    for (int64_t c = 0; c < cols; ++c) order[static_cast<size_t>(c)] = static_cast<int32_t>(reordered ? cols - 1 - c : c);
    dense.resize(codes.size());
    for (int64_t r = 0; r < rows; ++r) {
      pack_codes(codes.data() + r * cols, cols, bits, words.data() + r * cols * bits / 32);
      for (int64_t c = 0; c < cols; ++c) {
        const auto at = static_cast<size_t>(r * groups + c / group);
        const double scale = std::ldexp(1024 + (scales[at] & 1023), (scales[at] >> 10) - 25);
        dense[static_cast<size_t>(r * cols + order[static_cast<size_t>(c)])] =
            (codes[static_cast<size_t>(r * cols + c)] - zeros[at]) * scale;
      }
    }
    weight = {words.data(), scales.data(), zeros.data(), reordered ? order.data() : nullptr, bits, group, rows, cols};
  }
};

}  // namespace

TEST_CASE("codes of every width come back from their words, and a 3-bit code may cross a word") {
  for (int bits : {2, 3, 4, 8}) {
    std::vector<uint8_t> codes(64), back(64);
    std::vector<uint32_t> words(static_cast<size_t>(2 * bits));
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>((i * 7 + 3) & ((1u << bits) - 1));
    pack_codes(codes.data(), 64, bits, words.data());
    unpack_codes(words.data(), 64, bits, back.data());
    CHECK(back == codes);
    subtract_one(words.data(), 64, bits);
    add_one(words.data(), 64, bits);
    unpack_codes(words.data(), 64, bits, back.data());
    CHECK(back == codes);  // zeros of 0 included
    // 13 codes: the last word is not full. Nothing is written behind it, and its room to spare is zero.
    const auto used = static_cast<size_t>(words_for(13, bits));
    std::fill(words.begin(), words.end(), 0xabababab), std::fill(back.begin(), back.end(), uint8_t{0});
    pack_codes(codes.data(), 13, bits, words.data());
    CHECK(used * 32 - static_cast<size_t>(13 * bits) < 32);
    CHECK((words[used - 1] >> (13 * bits % 32)) == 0u);
    if (used < words.size()) CHECK(words[used] == 0xabababab);
    subtract_one(words.data(), 13, bits), add_one(words.data(), 13, bits);
    unpack_codes(words.data(), 13, bits, back.data());
    CHECK(std::equal(back.begin(), back.begin() + 13, codes.begin()));
  }
  // The layout that others read: value 10 of 3-bit codes has its low bits in word 0, its high bit in word 1.
  std::vector<uint8_t> codes(32);
  codes[10] = 7;
  uint32_t words[3];
  pack_codes(codes.data(), 32, 3, words);
  CHECK(words[0] == 0xC0000000u);
  CHECK(words[1] == 1u);
}

TEST_CASE("every kernel gives the dequantized weight of the definition, for each width, group and order") {
  for (const Kernels* k : all_kernels())
    for (int bits : {2, 3, 4, 8})
      for (auto [cols, group] : {std::pair<int64_t, int64_t>{64, 64}, {160, 32}, {160, 128}, {96, 16}})
        for (bool reordered : {false, true}) {
          const Sample s(bits, 5, cols, group, reordered);
          std::vector<float> out(static_cast<size_t>(3 * cols)), scratch(static_cast<size_t>(cols));
          k->dequantize(s.weight, 1, 4, Dtype::F32, out.data(), scratch.data());
          bool same = true;
          for (size_t i = 0; i < out.size(); ++i) same = same && static_cast<double>(out[i]) == s.dense[static_cast<size_t>(cols) + i];
          CAPTURE(std::string(k->name));
          CAPTURE(bits);
          CAPTURE(group);
          CAPTURE(reordered);
          CHECK(same);  // code less zero has few bits, a float16 scale 11: the product is exact
        }
}

TEST_CASE("every fused product agrees with the definition for one to sixteen rows of activations") {
  for (const Kernels* k : all_kernels())
    for (auto [bits, narrow] : {std::pair{2, false}, {3, false}, {4, false}, {8, false}, {4, true}})
      for (int64_t m : {1, 2, 3, 4, 5, 8, 15, 16})
        for (auto [cols, group] : {std::pair<int64_t, int64_t>{160, 128}, {96, 16}, {4384, 256}, {4256, 48}}) {
          if (narrow && k->multiply_bf16 == nullptr) continue;
          const Sample s(bits, 6, cols, group, false);
          std::mt19937 random(7);
          std::vector<float> x(static_cast<size_t>(m * cols)), y(static_cast<size_t>(m * 6), -1.0f);
          std::vector<uint16_t> x_narrow;
          for (auto& v : x) {
            v = static_cast<float>(static_cast<double>(random()) / 4294967296.0 - 0.5);
            if (narrow)
              v = std::bit_cast<float>(uint32_t{x_narrow.emplace_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(v) >> 16))} << 16);
          }
          narrow ? k->multiply_bf16(s.weight, x_narrow.data(), m, 1, 6, y.data()) : k->multiply(s.weight, x.data(), m, 1, 6, y.data());
          double worst = 0, scale = 0;
          for (int64_t i = 0; i < m; ++i)
            for (int64_t r = 1; r < 6; ++r) {
              double sum = 0;
              for (int64_t c = 0; c < cols; ++c)
                sum += static_cast<double>(x[static_cast<size_t>(i * cols + c)]) * s.dense[static_cast<size_t>(r * cols + c)];
              worst = std::max(worst, std::abs(sum - static_cast<double>(y[static_cast<size_t>(i * 6 + r)])));
              scale = std::max(scale, std::abs(sum));
            }
          CAPTURE(std::string(k->name));
          CAPTURE(bits);
          CAPTURE(m);
          CAPTURE(group);
          CAPTURE(narrow);
          CAPTURE(cols);
          CHECK(worst <= (cols > 1000 ? 1e-5 : 2e-6) * scale);  // float32 sums: about as many roundings as the square root of the products
          CHECK(y[0] == -1.0f);                                 // a row that was not asked for
        }
}
