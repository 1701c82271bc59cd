// Times products and dequantization of the bundled quantizers on the first GPU: one JSON line each, for bench/gpu.py.
//
//   bench_gpu [SECONDS]     at least so long for each figure (default 0.3)
//
// Several copies of a weight take turns, so that none is found in the second cache. A time is the wall clock's over many queued calls, until the
// device has finished: what a call costs on the host counts where it is longer than the kernels.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/randn.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "gpu/gpu.h"

using namespace tenon;

namespace {

constexpr int64_t kColdBytes = int64_t{256} << 20;  // of copies of a weight, more than any second cache

void wait_for(at::Device device) { at::empty({1}, at::TensorOptions().device(device)).zero_().item<float>(); }

double seconds_of(at::Device device, double least, const std::function<void(int64_t)>& call) {
  using Clock = std::chrono::steady_clock;
  int64_t i = 0;
  for (int64_t calls = 4;; calls *= 2) {  // the first rounds warm up
    wait_for(device);
    const auto start = Clock::now();
    for (int64_t n = 0; n < calls; ++n) call(i++);
    wait_for(device);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (seconds >= least) return seconds / static_cast<double>(calls);
  }
}

void print(const char* quantizer, const char* work, int64_t out, int64_t in, int64_t m, double seconds, int64_t bytes) {
  std::printf(
      "{\"side\": \"host\", \"quantizer\": \"%s\", \"work\": \"%s\", \"out\": %ld, \"in\": %ld, \"m\": %ld, \"seconds\": %.9f, \"bytes\": "
      "%ld}\n",
      quantizer, work, static_cast<long>(out), static_cast<long>(in), static_cast<long>(m), seconds, static_cast<long>(bytes));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const double least = argc > 1 ? std::atof(argv[1]) : 0.3;
  std::string problem;
  const auto gpu = testing::first_gpu(problem);
  if (!gpu) {
    std::printf("SKIP: %s\n", problem.c_str());
    return 0;
  }
  const at::NoGradGuard no_grad;
  const auto halves = at::TensorOptions().dtype(at::kBFloat16).device(*gpu);

  {  // what the memory gives: a copy reads and writes
    const at::Tensor from = at::empty({int64_t{512} << 20}, at::TensorOptions().dtype(at::kByte).device(*gpu)), to = at::empty_like(from);
    print("none", "copy", 0, 0, 0, seconds_of(*gpu, least, [&](int64_t) { to.copy_(from); }), 2 * from.numel());
  }
  struct Setting {
    const char* label;
    const char* name;
    Value options;
  };
  const Setting settings[] = {{"nf4", "nf4", Value::Table{}},
                              {"nf4 double", "nf4", Value::Table{{"double_quant", true}}},
                              {"fp4", "fp4", Value::Table{}},
                              {"int8", "int8", Value::Table{}},
                              {"gptq 4", "gptq", Value::Table{{"bits", int64_t{4}}}},
                              {"gptq 4 act-order", "gptq", Value::Table{{"bits", int64_t{4}}, {"desc_act", true}}},
                              {"gptq 2", "gptq", Value::Table{{"bits", int64_t{2}}}},
                              {"gptq 3", "gptq", Value::Table{{"bits", int64_t{3}}}},
                              {"gptq 8", "gptq", Value::Table{{"bits", int64_t{8}}}}};
  for (const Setting& setting : settings)
    for (const auto& [out, in] : {std::pair<int64_t, int64_t>{4096, 4096}, {14336, 4096}, {4096, 14336}}) {
      const auto q = testing::bundled_quantizer(setting.name, setting.options);
      const std::string path = "model.layers.0.mlp.up_proj";
      const SlotSpec slot{.path = path,
                          .out = out,
                          .in = in,
                          .dtype = at::kBFloat16,
                          .stack = 0,
                          .block = 0,
                          .sources = {Source::rename(path + ".weight")}};
      const at::Tensor weight = at::randn({out, in}, halves) * 0.02;
      std::vector<Tensors> copies{q->quantize(slot, weight, nullptr)};
      int64_t bytes = 0;
      for (const auto& t : copies[0]) bytes += static_cast<int64_t>(t.nbytes());
      while (static_cast<int64_t>(copies.size()) * bytes < kColdBytes) {
        copies.emplace_back();
        for (const auto& t : copies[0]) copies.back().push_back(t.clone());
      }
      const auto at_turn = [&](int64_t i) -> const Tensors& { return copies[static_cast<size_t>(i) % copies.size()]; };
      if (q->row_granule(slot) > 0)
        print(setting.label, "quantize", out, in, 0, seconds_of(*gpu, least, [&](int64_t) { q->quantize(slot, weight, nullptr); }),
              bytes + out * in * 2);
      print(setting.label, "dequantize", out, in, 0,
            seconds_of(*gpu, least, [&](int64_t i) { q->dequantize(slot, at_turn(i), at::kBFloat16); }), bytes + out * in * 2);
      for (const int64_t m : {1, 4, 16, 64, 512, 2048}) {
        const at::Tensor x = at::randn({m, in}, halves);
        print(setting.label, "linear", out, in, m, seconds_of(*gpu, least, [&](int64_t i) { q->linear(slot, x, at_turn(i)); }),
              bytes + m * (in + out) * 2);
      }
    }
  return 0;
}
