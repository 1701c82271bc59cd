// gptq_cuda.cu, compiled as C++ and run on the CPU thread for thread (tests/support/cuda_on_cpu), against the CPU's kernels: dequantized weights bit by
// bit, products against float64.
#include <doctest/doctest.h>

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#define cuda on_cpu  // a name of its own, beside what nvcc makes of the same file
#include "gptq_cuda.cu"
#undef cuda

#include "bits.h"

using namespace tenon::gptq;

namespace {

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

struct Quantized {
  Memory<std::uint32_t> codes;
  Memory<std::uint16_t> scales;
  Memory<std::uint8_t> zeros;
  Memory<std::int32_t> order;
  Weight view;
  Quantized(int bits, std::int64_t group, std::int64_t rows, std::int64_t cols, bool is_ordered, std::mt19937& random)
      : codes(rows * cols * bits / 32),
        scales(rows * ((cols + group - 1) / group)),
        zeros(rows * ((cols + group - 1) / group)),
        order(cols),
        view{} {
    std::vector<std::uint8_t> row(static_cast<std::size_t>(cols));
    for (std::int64_t r = 0; r < rows; ++r) {
      for (auto& code : row) code = static_cast<std::uint8_t>(random() & ((1u << bits) - 1));
      pack_codes(row.data(), cols, bits, codes.get() + r * cols * bits / 32);
    }
    const std::int64_t groups = (cols + group - 1) / group;
    for (std::int64_t i = 0; i < rows * groups; ++i) {
      scales[i] = static_cast<std::uint16_t>(0x1c00 + random() % 0x1000);  // normal float16 numbers around 2^-6
      zeros[i] = static_cast<std::uint8_t>(random() %
                                           (std::min(256u, (1u << bits) + 1)));  // files of version 1 hold one more than the codes reach
    }
    scales[0] = 3;  // subnormal
    for (std::int64_t c = 0; c < cols; ++c) order[c] = static_cast<std::int32_t>(c);
    std::shuffle(order.get(), order.get() + cols, random);
    view = {codes.get(), scales.get(), zeros.get(), is_ordered ? order.get() : nullptr, bits, group, rows, cols};
  }
};

float loaded(const unsigned char* from, Dtype dtype, std::int64_t i) { return on_cpu::element(from, dtype, i); }

}  // namespace

TEST_CASE("dequantized rows are the CPU's, bit by bit: every width, group and order") {
  std::mt19937 random(1);
  for (const int bits : {2, 3, 4, 8})
    for (const std::int64_t group : {16, 32, 48, 128, 1024})
      for (const auto& [rows, cols] : Shapes{{1, 32}, {5, 96}, {3, 416}, {2, 2080}})
        for (const bool is_ordered : {false, true})
          for (const Dtype dtype : kDtypes) {
            CAPTURE(bits);
            CAPTURE(group);
            CAPTURE(cols);
            const Quantized weight(bits, std::min(group, cols), rows, cols, is_ordered, random);
            const std::int64_t begin = rows / 3, count = rows - begin, bytes = count * cols * static_cast<std::int64_t>(size_of(dtype));
            Memory<unsigned char> out(bytes, random() % 4 == 0 ? 4 : 0), expected(bytes);
            std::vector<float> scratch(static_cast<std::size_t>(cols));
            on_cpu::dequantize(weight.view, begin, rows, dtype, out.get(), kHere);
            available_kernels().front()->dequantize(weight.view, begin, rows, dtype, expected.get(), scratch.data());
            CHECK(out == expected);
          }
  // A row that is too long to be put in order in shared memory.
  const Quantized weight(4, 128, 1, 12320, true, random);
  Memory<float> out(12320), expected(12320);
  std::vector<float> scratch(12320);
  on_cpu::dequantize(weight.view, 0, 1, Dtype::F32, out.get(), kHere);
  available_kernels().front()->dequantize(weight.view, 0, 1, Dtype::F32, expected.get(), scratch.data());
  CHECK(out == expected);
}

TEST_CASE("products of up to sixteen rows: every width, group, dtype, whole and ragged tiles") {
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0, 1);
  for (const int bits : {2, 3, 4, 8})
    for (const std::int64_t group : {16, 32, 96, 128, 4096})
      for (const auto& [rows, cols] : Shapes{{32, 32}, {16, 64}, {33, 416}, {7, 1120}, {50, 288}})
        for (const Dtype dtype : kDtypes) {
          const std::int64_t m = std::int64_t{1} + static_cast<std::int64_t>(random() % kFusedRows);
          const std::size_t shift = random() % 5 == 0 ? 4 : 0;
          CAPTURE(bits);
          CAPTURE(group);
          CAPTURE(rows);
          CAPTURE(cols);
          CAPTURE(m);
          CAPTURE(shift);
          const Quantized weight(bits, std::min(group, cols), rows, cols, false, random);
          Memory<unsigned char> x(m * cols * static_cast<std::int64_t>(size_of(dtype)), shift),
              y(m * rows * static_cast<std::int64_t>(size_of(dtype)));
          for (std::int64_t i = 0; i < m * cols; ++i) on_cpu::store(x.get(), dtype, i, normal(random));
          on_cpu::multiply(weight.view, x.get(), dtype, m, y.get(), kHere);
          Memory<float> dense(rows * cols);
          std::vector<float> scratch(static_cast<std::size_t>(cols));
          available_kernels().front()->dequantize(weight.view, 0, rows, Dtype::F32, dense.get(), scratch.data());
          double worst = 0;
          for (std::int64_t i = 0; i < m; ++i)
            for (std::int64_t n = 0; n < rows; ++n) {
              double exact = 0, size = 0;
              for (std::int64_t c = 0; c < cols; ++c) {
                const double product = static_cast<double>(dense[n * cols + c]) * loaded(x.get(), dtype, i * cols + c);
                exact += product, size += std::fabs(product);
              }
              // Sums in float32, then one rounding to the dtype; nothing else is rounded.
              const double allowed = 2e-6 * size +
                                     std::fabs(exact) * (dtype == Dtype::F32    ? 0
                                                         : dtype == Dtype::Bf16 ? 0x1p-8
                                                                                : 0x1p-11) +
                                     1e-7;
              worst = std::max(worst, std::fabs(loaded(y.get(), dtype, i * rows + n) - exact) / allowed);
            }
          CHECK(worst <= 1);
        }
}
