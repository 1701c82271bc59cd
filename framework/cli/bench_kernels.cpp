// `host __bench RECIPE kernels`: what one quantized product moves, and at which share of the speed of memory; products of many rows beside dense ones.
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <cstdio>
#include <span>

#include "base/seconds.h"
#include "cli/bench.h"
#include "tenon/error.h"
#include "tenon/nn/linear.h"
#include "tenon/quantizer.h"

namespace tenon::host {

namespace {

constexpr int64_t kOut = 5632, kIn = 2048;         // of bench/run.py's model: the weights that make up most of it
constexpr int64_t kResident = int64_t{512} << 20;  // as many copies, so that every product reads its weight from memory, not from a cache
constexpr int64_t kManyRows = 512;
constexpr int kPasses = 5;  // over all copies; the best counts, as other work on the machine only ever takes away

int64_t bytes_of(const Tensors& tensors) {
  int64_t bytes = 0;
  for (const auto& tensor : tensors) bytes += static_cast<int64_t>(tensor.nbytes());
  return bytes;
}

template <class Body>
double best_seconds(Body&& body) {
  double best = 0;
  for (int pass = 0; pass <= kPasses; ++pass) {
    const auto start = Clock::now();
    body();
    const double took = seconds_since(start);
    if (pass > 0) best = pass == 1 ? took : std::min(best, took);  // the first warms up
  }
  return best;
}

// Bytes a second, read by all threads with no work on them.
double read_speed() {
  const at::Tensor data = at::empty({kResident / 4}, at::kFloat).fill_(1);
  return static_cast<double>(data.nbytes()) / best_seconds([&] { at::sum(data); });
}

void print(const std::string& name, double seconds, int64_t bytes, double limit) {
  const double speed = static_cast<double>(bytes) / seconds;
  std::fputs(fmt::format("kernel {}: {:.1f} us, {:.2f} MB, {:.1f} GB/s, {:.0f}% of memory\n", name, seconds * 1e6,
                         static_cast<double>(bytes) / 1e6, speed / 1e9, 100 * speed / limit)
                 .c_str(),
             stdout);
  std::fflush(stdout);
}

// Of a training step: the product and its gradient, and both with the dense weight.
void bench_many_rows(const SlotSpec& slot, const at::Tensor& dense, const Quantizer& quantizer, std::span<const Tensors> copies) {
  const at::Tensor x = at::empty({kManyRows, slot.in}, at::kBFloat16).normal_(),
                   dy = at::empty({kManyRows, slot.out}, at::kBFloat16).normal_();
  const at::Tensor dense_of_in = dense.t().contiguous();
  const auto report = [&](const char* name, auto&& body) {
    const double seconds = best_seconds([&] {
                             for (const auto& tensors : copies) body(tensors);
                           }) /
                           static_cast<double>(copies.size());
    std::fputs(fmt::format("product {}: {:.2f} ms, {:.0f} GFLOP/s\n", name, seconds * 1e3,
                           2e-9 * static_cast<double>(kManyRows * slot.in * slot.out) / seconds)
                   .c_str(),
               stdout);
    std::fflush(stdout);
  };
  report("m=512", [&](const Tensors& tensors) { quantizer.linear(slot, x, tensors); });
  report("m=512, dense", [&](const Tensors&) { nn::linear(x, dense); });
  report("m=512, gradient", [&](const Tensors& tensors) { quantizer.grad_input(slot, dy, tensors); });
  report("m=512, gradient, dense", [&](const Tensors&) { nn::linear(dy, dense_of_in); });
}

}  // namespace

void bench_kernels(const Recipe& recipe, Registry& registry) {
  SlotSpec slot;
  slot.path = "bench";
  slot.out = kOut, slot.in = kIn, slot.dtype = at::kBFloat16;
  at::Tensor weight = at::empty({kOut, kIn}, at::kBFloat16).normal_(0, 0.02);
  std::unique_ptr<Quantizer> quantizer;
  std::vector<Tensors> copies;
  if (recipe.quantizers.empty()) {
    copies.push_back({weight});
  } else {
    const auto& section = recipe.quantizers.front();
    quantizer = registry.quantizer(section.type).make(section.options);
    copies.push_back(quantizer->quantize(slot, weight, nullptr));
  }
  const int64_t resident = bytes_of(copies.front());
  while (static_cast<int64_t>(copies.size()) * resident < kResident) {
    Tensors copy;
    for (const auto& tensor : copies.front()) copy.push_back(tensor.clone());
    copies.push_back(std::move(copy));
  }
  const double limit = read_speed(), count = static_cast<double>(copies.size());
  std::fputs(fmt::format("memory {:.1f} GB/s\n", limit / 1e9).c_str(), stdout);
  for (const int64_t m : {1, 2, 4, 8, 16}) {
    const at::Tensor x = at::empty({m, kIn}, at::kBFloat16).normal_();
    at::Tensor y;
    const double seconds = best_seconds([&] {
      for (const auto& tensors : copies) y = quantizer ? quantizer->linear(slot, x, tensors) : nn::linear(x, tensors[0]);
    });
    print(fmt::format("m={}", m), seconds / count, resident + static_cast<int64_t>(x.nbytes() + y.nbytes()), limit);
  }
  if (!quantizer) return;
  // Results that come from the kernel anew each time would measure its page faults.
  mallopt(M_MMAP_THRESHOLD, 32 << 20), mallopt(M_TRIM_THRESHOLD, 256 << 20);
  const double seconds = best_seconds([&] {
    for (const auto& tensors : copies) weight = quantizer->dequantize(slot, tensors, at::kBFloat16);
  });
  print("dequantize", seconds / count, resident + static_cast<int64_t>(weight.nbytes()), limit);
  bench_many_rows(slot, weight, *quantizer, std::span(copies).first(4));
}

}  // namespace tenon::host
