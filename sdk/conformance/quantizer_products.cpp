// Checks of what a quantizer computes, and of what it leaves behind.
#include <ATen/ops/tensor.h>
#include <malloc.h>

#include <cmath>
#include <exception>
#include <fstream>
#include <thread>

#include "global_state.h"
#include "product_error.h"
#include "quantizer_kit.h"

namespace tenon::conformance {

namespace {

// `found` is x . weight^T, computed in `dtype`.
void expect_product(const at::Tensor& found, const at::Tensor& x, const at::Tensor& weight, at::ScalarType dtype, const std::string& what) {
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  expect(found.defined() && found.sizes() == at::IntArrayRef(shape) && found.scalar_type() == dtype, what, " is ",
         found.defined() ? concat(shape_text(found.sizes()), " ", c10::toString(found.scalar_type())) : std::string("undefined"),
         ", expected ", shape_text(shape), " ", c10::toString(dtype));
  const double off = product_error(found, x, weight);
  expect(off <= kProductTolerance, what, " differs by ", off, " (relative RMS) from the product with the dequantized weight, at most ",
         kProductTolerance, " is allowed");
}

void check_linear(Context& c) {
  for_each_setting(c, [&](const Setting& s) {
    for (const auto& [out, in] : {std::pair<int64_t, int64_t>{96, 256}, {17, 33}, {1, 256}}) {
      const SlotSpec slot = linear_slot(out, in);
      if (!s.supports(slot)) continue;
      const Tensors tensors = s.pack(slot, weight_for(slot, c.seed(), s.device));
      const at::Tensor weight = s.dense(slot, tensors);
      for (const at::ScalarType dtype : s.facts.compute_dtypes) {
        for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{{in}, {1, in}, {3, in}, {2, 5, in}, {40, in}, {0, in}}) {
          const at::Tensor x = normal(shape, c.seed() + 1, dtype).to(s.device);
          expect_product(s.quantizer->linear(slot, x, tensors), x, weight, dtype,
                         concat("linear of x ", shape_text(shape), " ", c10::toString(dtype), " with [", out, ", ", in, "]"));
        }
        const at::Tensor turned = normal({in, 4}, c.seed() + 2, dtype).to(s.device).t();
        expect_product(s.quantizer->linear(slot, turned, tensors), turned, weight, dtype, "linear of a transposed x");
        const at::Tensor every_other = normal({8, in}, c.seed() + 3, dtype).to(s.device).slice(0, 0, 8, 2);
        expect_product(s.quantizer->linear(slot, every_other, tensors), every_other, weight, dtype, "linear of every other row");
        const at::Tensor second = normal({2, 5, in}, c.seed() + 4, dtype).to(s.device).narrow(0, 1, 1);
        expect_product(s.quantizer->linear(slot, second, tensors), second, weight, dtype, "linear of the second sample of a batch");
      }
    }
  });
}

void check_linear_many(Context& c) {
  for_each_setting(c, [&](const Setting& s) {
    std::vector<SlotSpec> slots{linear_slot(96, 256), linear_slot(32, 256), linear_slot(1, 256)};
    std::vector<Tensors> tensors;
    std::vector<Quantizer::Operand> operands;
    for (size_t i = 0; i < slots.size(); ++i) {
      slots[i].path = concat("model.layers.0.self_attn.", "qkv"[i], "_proj");
      slots[i].input_group = "model.layers.0.self_attn.qkv";
      if (!s.supports(slots[i])) skipped("[", slots[i].out, ", 256] is not supported");
      tensors.push_back(s.pack(slots[i], weight_for(slots[i], c.seed() + i, s.device)));
    }
    for (size_t i = 0; i < slots.size(); ++i) operands.push_back({&slots[i], &tensors[i]});
    for (const at::ScalarType dtype : s.facts.compute_dtypes)
      for (const int64_t rows : {1, 5, 40}) {
        const at::Tensor x = normal({rows, 256}, c.seed() + 9, dtype).to(s.device);
        const auto outputs = s.quantizer->linear_many(operands, x);
        expect(outputs.size() == slots.size(), "linear_many of ", slots.size(), " weights gave ", outputs.size(), " results");
        for (size_t i = 0; i < slots.size(); ++i)
          expect_product(outputs[i], x, s.dense(slots[i], tensors[i]), dtype, concat("linear_many, weight ", i));
      }
  });
}

void check_gradient(Context& c) {
  for_each_setting(c, [&](const Setting& s) {
    for (const auto& [out, in] : {std::pair<int64_t, int64_t>{96, 256}, {17, 33}}) {
      const SlotSpec slot = linear_slot(out, in);
      if (!s.supports(slot)) continue;
      const Tensors tensors = s.pack(slot, weight_for(slot, c.seed(), s.device));
      const at::Tensor weight = s.dense(slot, tensors);
      for (const at::ScalarType dtype : s.facts.compute_dtypes)
        for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{{3, out}, {2, 5, out}}) {
          const at::Tensor dy = normal(shape, c.seed() + 1, dtype).to(s.device);
          expect_product(s.quantizer->grad_input(slot, dy, tensors), dy, weight.t(), dtype,
                         concat("grad_input of dy ", shape_text(shape), " ", c10::toString(dtype)));
        }
      // Central differences of <linear(x), dy> in a direction e. The product is linear in x, so the step may be large and rounding stays small.
      const at::Tensor x = normal({4, in}, c.seed() + 2).to(s.device), e = normal({4, in}, c.seed() + 3).to(s.device),
                       dy = normal({4, out}, c.seed() + 4).to(s.device);
      auto value = [&](const at::Tensor& at_x) {
        return (s.quantizer->linear(slot, at_x, tensors).to(at::kDouble) * dy.to(at::kDouble)).sum().item<double>();
      };
      const double slope = (value(x + e) - value(x - e)) / 2;
      const at::Tensor dx = s.quantizer->grad_input(slot, dy, tensors);
      const double promised = (dx.to(at::kDouble) * e.to(at::kDouble)).sum().item<double>();
      const double scale = dx.to(at::kDouble).norm().item<double>() * e.to(at::kDouble).norm().item<double>();
      expect(std::abs(slope - promised) <= kProductTolerance * scale, "in a random direction linear() changes by ", slope,
             ", grad_input() says ", promised);
    }
  });
}

void check_rows(Context& c) {
  bool any = false;
  for_each_setting(c, [&](const Setting& s) {
    SlotSpec slot = linear_slot(100, 64);
    slot.kind = SlotKind::Embedding;
    slot.path = "model.embed_tokens";
    if (!s.supports(slot)) return;
    any = true;
    const Tensors tensors = s.pack(slot, weight_for(slot, c.seed(), s.device));
    const at::Tensor weight = s.dense(slot, tensors);
    const at::Tensor ids = at::tensor(std::vector<int64_t>{0, 99, 7, 7, 50, 3}, at::kLong).view({2, 3}).to(s.device);
    const at::Tensor found = s.quantizer->rows(slot, ids, tensors, at::kFloat);
    const at::Tensor expected = weight.index_select(0, ids.reshape({-1})).view({2, 3, 64});
    expect(found.sizes() == expected.sizes() && found.scalar_type() == at::kFloat, "rows of ids [2, 3] are ", shape_text(found.sizes()),
           ", expected [2, 3, 64]");
    expect(same_bytes(found.contiguous(), expected), "rows() of an embedding differ from the same rows of dequantize()");
    try {
      s.quantizer->rows(slot, at::tensor(std::vector<int64_t>{100}, at::kLong).to(s.device), tensors, at::kFloat);
    } catch (const Error&) {
      return;
    }
    failed("rows() of an id outside the vocabulary is no error");
  });
  if (!any) skipped("embeddings are not supported");
}

void check_input_unchanged(Context& c) {
  for_each_setting(c, [&](const Setting& s) {
    const SlotSpec slot = linear_slot(96, 256);
    at::Tensor weight = weight_for(slot, c.seed(), s.device);
    const at::Tensor weight_before = weight.clone();
    std::unique_ptr<Observer> observer;
    if (s.facts.needs_calibration) {
      observer = s.quantizer->make_observer(slot);
      observer->observe(normal({64, 256}, 11).to(s.device));
    }
    const Tensors tensors = s.quantizer->quantize(slot, weight, observer.get());
    expect(same_bytes(weight, weight_before), "quantize() wrote to the weight it was given: it may be the mapped file itself");
    Tensors tensors_before;
    for (const auto& t : tensors) tensors_before.push_back(t.clone());
    const at::Tensor x = normal({3, 256}, c.seed() + 1).to(s.device), dy = normal({3, 96}, c.seed() + 2).to(s.device);
    const at::Tensor x_before = x.clone(), dy_before = dy.clone();
    s.dense(slot, tensors);
    s.quantizer->linear(slot, x, tensors);
    s.quantizer->grad_input(slot, dy, tensors);
    expect(same_bytes(x, x_before), "linear() wrote to x");
    expect(same_bytes(dy, dy_before), "grad_input() wrote to dy");
    expect(same_bytes(tensors, tensors_before), "a product or dequantize() wrote to the packed tensors");
  });
}

void check_threads(Context& c) {
  constexpr size_t kThreads = 4;
  for_each_setting(c, [&](const Setting& s) {
    std::vector<SlotSpec> slots;
    std::vector<Tensors> alone;
    std::vector<at::Tensor> dense, products;
    const at::Tensor x = normal({3, 256}, c.seed() + 9).to(s.device);
    for (size_t i = 0; i < kThreads; ++i) {
      slots.push_back(linear_slot(64 + static_cast<int64_t>(i) * 16, 256));
      alone.push_back(s.pack(slots[i], weight_for(slots[i], c.seed() + i, s.device)));
      dense.push_back(s.dense(slots[i], alone[i]));
      products.push_back(s.quantizer->linear(slots[i], x, alone[i]));
    }
    std::vector<std::string> problems(kThreads);
    std::vector<std::thread> threads;
    for (size_t i = 0; i < kThreads; ++i)
      threads.emplace_back([&, i] {
        try {
          for (int repeat = 0; repeat < 4; ++repeat) {
            const Tensors tensors = s.pack(slots[i], weight_for(slots[i], c.seed() + i, s.device));
            if (!same_bytes(tensors, alone[i])) problems[i] = "quantize() gives other bytes beside other threads than alone";
            // Everyone's tensors, so that some are read by several threads at once.
            for (size_t j = 0; j < kThreads; ++j) {
              if (!same_bytes(s.dense(slots[j], alone[j]), dense[j])) problems[i] = "dequantize() gives other numbers beside other threads";
              const double off = relative_rms(s.quantizer->linear(slots[j], x, alone[j]), products[j]);
              // The order of sums may follow the number of threads: float32 rounding over 256 terms.
              if (off > 1e-5) problems[i] = concat("linear() is off by ", off, " beside other threads");
            }
          }
        } catch (const std::exception& error) {
          problems[i] = error.what();
        } catch (...) {
          problems[i] = "something that is no exception was thrown";
        }
      });
    for (auto& thread : threads) thread.join();
    for (const auto& problem : problems) expect(problem.empty(), problem);
  });
}

int64_t heap_in_use() {
  const struct mallinfo2 info = ::mallinfo2();
  return static_cast<int64_t>(info.uordblks + info.hblkhd);
}

void check_memory(Context& c) {
#ifdef __SANITIZE_ADDRESS__
  (void)c, (void)heap_in_use;
  skipped("AddressSanitizer looks for leaks itself");
#else
  const Setting s = default_setting(c);
  const SlotSpec slot = linear_slot(96, 256);
  const at::Tensor weight = weight_for(slot, c.seed()), x = normal({3, 256}, c.seed() + 1), dy = normal({3, 96}, c.seed() + 2);
  auto work = [&](int64_t repeats) {
    for (int64_t i = 0; i < repeats; ++i) {
      const Tensors tensors = s.pack(slot, weight);
      s.dense(slot, tensors);
      s.quantizer->linear(slot, x, tensors);
      s.quantizer->grad_input(slot, dy, tensors);
    }
  };
  const int64_t repeats = c.level() > 1 ? 1000 : 250;
  work(100);  // caches and thread pools fill
  const int64_t before = heap_in_use();
  if (before == 0) skipped("this allocator does not say how much is in use");
  work(repeats);
  const int64_t growth = heap_in_use() - before;
  // Less than the smallest object per call could be; what is left of noise is far below.
  expect(growth < 16 * repeats, growth, " bytes more are in use after ", repeats,
         " rounds of quantize, dequantize, linear and grad_input, ", growth / repeats, " a round: something is kept");
#endif
}

void check_global_state(Context& c) {
  for_each_setting(c, [&](const Setting& s) {
    const SlotSpec slot = linear_slot(96, 256);
    const at::Tensor weight = weight_for(slot, c.seed(), s.device), x = normal({3, 256}, c.seed() + 1).to(s.device),
                     dy = normal({3, 96}, c.seed() + 2).to(s.device);
    const GlobalState before = read_global_state();
    make_setting(c, s.options, s.device);
    const Tensors tensors = s.pack(slot, weight);
    s.dense(slot, tensors);
    s.quantizer->linear(slot, x, tensors);
    s.quantizer->grad_input(slot, dy, tensors);
    const std::string changed = difference(before, read_global_state());
    expect(changed.empty(), "its calls changed the process: ", changed, "; use guards that put things back");
  });
}

}  // namespace

std::vector<Check> quantizer_product_checks() {
  constexpr const char* kBase = "quantizer.calls";
  return {
      {"quantizer.linear", 1, kBase, "A fused product that differs from the weight it stands for is another model.", check_linear},
      {"quantizer.linear_many", 1, kBase,
       "Projections that share an input are multiplied together: the results must be those of each alone.", check_linear_many},
      {"quantizer.gradient", 1, kBase, "Adapters train through quantized weights: a wrong gradient trains something else.", check_gradient},
      {"quantizer.rows", 1, kBase, "A quantized embedding must look up the rows that it would dequantize.", check_rows},
      {"quantizer.input_unchanged", 1, kBase, "Weights come from mapped files and are shared: writing to an input spoils them for others.",
       check_input_unchanged},
      {"quantizer.threads", 1, kBase, "The host quantizes several weights at once, on its own threads.", check_threads},
      {"quantizer.memory", 1, kBase, "Training calls a product millions of times: what each call keeps ends the run.", check_memory},
      {"quantizer.global_state", 1, kBase, "A call that leaves a mode switched changes what everyone else computes.", check_global_state},
  };
}

}  // namespace tenon::conformance
