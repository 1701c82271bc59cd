// What the quantizers compute on a GPU, against what they compute on the CPU. Where there is none, each case says SKIP.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/round.h>
#include <ATen/ops/tensor.h>
#include <doctest/doctest.h>

#include <vector>

#include "gpu/gpu.h"

using namespace tenon;
using tenon::testing::bundled_quantizer;

namespace {

struct Case {
  const char* name;
  Value options;
  std::vector<std::pair<int64_t, int64_t>> shapes;
};

std::vector<Case> cases() {
  const std::vector<std::pair<int64_t, int64_t>> any{{96, 256}, {17, 33}, {64, 4096}, {130, 1000}},
      whole{{96, 256}, {64, 4096}, {160, 1056}};
  std::vector<Case> all{{"nf4", Value::Table{}, any},
                        {"nf4", Value::Table{{"double_quant", true}}, any},
                        {"fp4", Value::Table{{"block_size", 128}}, any},
                        {"int8", Value::Table{}, any},
                        {"int8", Value::Table{{"threshold", 2.5}}, any}};
  for (const int64_t bits : {2, 3, 4, 8})
    for (const bool desc_act : {false, true})
      all.push_back({"gptq", Value::Table{{"bits", bits}, {"group_size", bits == 3 ? 32 : 128}, {"desc_act", desc_act}}, whole});
  return all;
}

SlotSpec slot_of(int64_t out, int64_t in, at::ScalarType dtype) {
  const std::string path = "model.layers.0.mlp.up_proj";
  return {.path = path, .out = out, .in = in, .dtype = dtype, .stack = 0, .block = 0, .sources = {Source::rename(path + ".weight")}};
}

Tensors to(const Tensors& tensors, at::Device device) {
  Tensors moved;
  for (const auto& t : tensors) moved.push_back(t.to(device));
  return moved;
}

// Both sides round once to the dtype and sum in float32, in other orders.
double allowed(at::ScalarType dtype) { return dtype == at::kFloat ? 1e-5 : dtype == at::kHalf ? 2e-3 : 1.6e-2; }
double relative(const at::Tensor& found, const at::Tensor& expected) {
  const at::Tensor e = expected.to(at::kCPU, at::kDouble);
  return (found.to(at::kCPU, at::kDouble) - e).abs().max().item<double>() / std::max(1e-30, e.abs().max().item<double>());
}

// Runs `body(device)` where there is a GPU.
template <class Body>
void on_gpu(Body&& body) {
  std::string problem;
  if (const auto device = tenon::testing::first_gpu(problem))
    body(*device);
  else
    MESSAGE("SKIP: ", problem);
}

constexpr at::ScalarType kDtypes[] = {at::kFloat, at::kBFloat16, at::kHalf};

}  // namespace

TEST_CASE("GPU: a weight becomes the same tensors as on the CPU, whole and in panels") {
  on_gpu([](at::Device gpu) {
    for (const Case& c : cases())
      for (const auto& [out, in] : c.shapes)
        for (const at::ScalarType dtype : kDtypes) {
          CAPTURE(c.name);
          CAPTURE(in);
          const auto q = bundled_quantizer(c.name, c.options);
          const SlotSpec slot = slot_of(out, in, dtype);
          const at::Tensor weight = at::randn({out, in}).mul(0.05).to(dtype);
          const Tensors expected = q->quantize(slot, weight, nullptr), found = q->quantize(slot, weight.to(gpu), nullptr);
          REQUIRE(found.size() == expected.size());
          for (size_t i = 0; i < found.size(); ++i) {
            CHECK(found[i].device() == gpu);
            CHECK(at::equal(found[i].cpu(), expected[i]));
          }
          const int64_t granule = q->row_granule(slot);
          if (granule == 0) continue;
          Tensors work = q->begin(slot, gpu);
          for (int64_t row = 0; row < out; row += granule)
            q->quantize_rows(slot, weight.narrow(0, row, std::min(granule, out - row)).to(gpu), row, work);
          const Tensors panels = q->finish(slot, std::move(work));
          for (size_t i = 0; i < panels.size(); ++i) CHECK(at::equal(panels[i].cpu(), expected[i]));
        }
  });
}

TEST_CASE("GPU: dequantized rows are the CPU's, bit by bit") {
  on_gpu([](at::Device gpu) {
    for (const Case& c : cases())
      for (const auto& [out, in] : c.shapes)
        for (const at::ScalarType dtype : kDtypes) {
          CAPTURE(c.name);
          CAPTURE(in);
          const auto q = bundled_quantizer(c.name, c.options);
          const SlotSpec slot = slot_of(out, in, at::kFloat);
          const Tensors here = q->quantize(slot, at::randn({out, in}), nullptr), there = to(here, gpu);  // as a file is loaded
          for (const auto& [first, last] : {std::pair<int64_t, int64_t>{0, out}, {out / 3, out - 1}})
            CHECK(at::equal(q->dequantize(slot, there, dtype, first, last).cpu(), q->dequantize(slot, here, dtype, first, last)));
        }
  });
}

TEST_CASE("GPU: products, forward and back, of one row to many") {
  on_gpu([](at::Device gpu) {
    for (const Case& c : cases())
      for (const auto& [out, in] : c.shapes)
        for (const at::ScalarType dtype : kDtypes) {
          const auto q = bundled_quantizer(c.name, c.options);
          const SlotSpec slot = slot_of(out, in, at::kFloat);
          const Tensors here = q->quantize(slot, at::randn({out, in}).mul(0.05), nullptr), there = to(here, gpu);
          for (const int64_t m : {1, 2, 8, 9, 16, 17, 70, 200}) {
            CAPTURE(c.name);
            CAPTURE(in);
            CAPTURE(m);
            at::Tensor x = at::randn({m, in});
            x.select(1, in / 2).mul_(9);  // an outlier column
            x = x.to(dtype);
            CHECK(relative(q->linear(slot, x.to(gpu), there), q->linear(slot, x, here)) < allowed(dtype));
            const Quantizer::Operand both[] = {{&slot, &there}, {&slot, &there}};
            const auto many = q->linear_many(both, x.to(gpu));
            CHECK(at::equal(many[0], many[1]));
            const at::Tensor dy = at::randn({m, out}).to(dtype);
            CHECK(relative(q->grad_input(slot, dy.to(gpu), there), q->grad_input(slot, dy, here)) < allowed(dtype));
          }
        }
  });
}

TEST_CASE("GPU: int8 accumulators are exact") {
  on_gpu([](at::Device gpu) {
    const auto q = bundled_quantizer("int8", Value::Table{{"threshold", 0.0}});
    for (const auto& [out, in] : {std::pair<int64_t, int64_t>{16, 64}, {133, 1000}, {300, 4096}})
      for (const int64_t m : {1, 7, 16, 40, 300}) {
        CAPTURE(in);
        CAPTURE(m);
        const SlotSpec slot = slot_of(out, in, at::kFloat);
        const Tensors w = q->quantize(slot, at::randn({out, in}), nullptr);
        const at::Tensor x = at::randn({m, in}), scale = x.abs().amax(1, true);
        const at::Tensor codes = at::round(x * (scale.reciprocal() * 127.0f));
        const at::Tensor sums = at::linear(codes.to(at::kDouble), w[0].to(at::kDouble));
        // Three roundings to float32 are far less than half a step of these sums.
        const at::Tensor unit = scale.to(at::kDouble) * w[1].to(at::kDouble) / (127.0 * 127.0);
        CHECK(at::equal(at::round(q->linear(slot, x.to(gpu), to(w, gpu)).cpu().to(at::kDouble) / unit), sums));
      }
  });
}

TEST_CASE("GPU: embeddings and experts") {
  on_gpu([](at::Device gpu) {
    for (const Case& c : cases()) {
      const auto q = bundled_quantizer(c.name, c.options);
      SlotSpec table = slot_of(50, 96, at::kFloat), experts = slot_of(24, 64, at::kFloat);
      table.kind = SlotKind::Embedding;
      experts.kind = SlotKind::Experts, experts.count = 4;
      CAPTURE(c.name);
      if (q->supports(table).yes) {
        const Tensors here = q->quantize(table, at::randn({50, 96}), nullptr);
        const at::Tensor ids = at::randint(50, {3, 5}, at::kLong);
        CHECK(at::equal(q->rows(table, ids.to(gpu), to(here, gpu), at::kBFloat16).cpu(), q->rows(table, ids, here, at::kBFloat16)));
      }
      if (q->supports(experts).yes) {
        const Tensors here = q->quantize(experts, at::randn({4, 24, 64}), nullptr);
        const at::Tensor x = at::randn({40, 64}), offsets = at::tensor({0, 3, 3, 22, 40}, at::kLong);
        CHECK(relative(q->grouped(experts, x.to(gpu), offsets, to(here, gpu)), q->grouped(experts, x, offsets, here)) < 1e-5);
      }
    }
  });
}

TEST_CASE("GPU: GPTQ calibrated with inputs on the device loses as little as on the CPU") {
  on_gpu([](at::Device gpu) {
    for (const bool desc_act : {false, true}) {
      const auto q = bundled_quantizer("gptq", Value::Table{{"bits", int64_t{4}}, {"group_size", int64_t{64}}, {"desc_act", desc_act}});
      const SlotSpec slot = slot_of(64, 256, at::kFloat);
      const at::Tensor w = at::randn({64, 256}), x = at::randn({2048, 256}) * (at::arange(256) % 7 + 1).to(at::kFloat);
      const auto here = q->make_observer(slot), there = q->make_observer(slot);
      here->observe(x), there->observe(x.to(gpu));
      const Tensors on_cpu = q->quantize(slot, w, here.get()), on_gpu = q->quantize(slot, w.to(gpu), there.get());
      for (const auto& t : on_gpu) CHECK(t.device() == gpu);
      const at::Tensor exact = at::linear(x, w);
      const double cpu_error = (q->linear(slot, x, on_cpu) - exact).norm().item<double>();
      const double gpu_error = (q->linear(slot, x.to(gpu), on_gpu).cpu() - exact).norm().item<double>();
      CHECK(gpu_error < 1.02 * cpu_error);  // sums in another order turn single codes
    }
  });
}
