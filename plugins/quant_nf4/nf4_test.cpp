// Through the C table, as the host uses it.
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/item.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <doctest/doctest.h>

#include <map>

#include "support/stable_plugin.h"

#include "support/errors.h"
#include "support/memory_file.h"

using namespace tenon;
using tenon::testing::error_of;
using tenon::testing::MemoryFile;
using tenon::testing::stable_quantizer;

namespace {

SlotSpec slot_of(int64_t out, int64_t in, at::ScalarType dtype = at::kFloat) {
  return {.path = "model.layers.0.mlp.up_proj",
          .out = out,
          .in = in,
          .dtype = dtype,
          .sources = {Source::rename("model.layers.0.mlp.up_proj.weight")}};
}

double relative(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>() / b.abs().max().item<double>(); }

}  // namespace

TEST_CASE("experts are packed one below the other: in panels, back, and multiplied each with its tokens") {
  for (const bool nested : {false, true})
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      const auto q = stable_quantizer("nf4", Value::Table{{"block_size", 32}, {"double_quant", nested}});
      SlotSpec slot = slot_of(19, 40, dtype);  // an expert ends inside a block
      slot.kind = SlotKind::Experts, slot.count = 5;
      CHECK(q->supports(slot).yes);
      const at::Tensor w = at::randn({5, 19, 40}).to(dtype);
      const Tensors whole = q->quantize(slot, w, nullptr);
      const at::Tensor dense = q->dequantize(slot, whole, dtype, 0, 5);
      REQUIRE((dense.sizes().vec() == std::vector<int64_t>{5, 19, 40}));
      CHECK(at::equal(q->dequantize(slot, whole, dtype, 2, 4), dense.narrow(0, 2, 2)));
      // As one matrix of all rows.
      CHECK(at::equal(stable_quantizer("nf4", Value::Table{{"block_size", 32}, {"double_quant", nested}})
                          ->quantize(slot_of(95, 40, dtype), w.view({95, 40}), nullptr)[0],
                      whole[0]));
      Tensors work = q->begin(slot, at::kCPU);
      const int64_t step = q->row_granule(slot);
      for (int64_t e = 0; e < 5; e += step) q->quantize_rows(slot, w.narrow(0, e, std::min<int64_t>(step, 5 - e)), e, work);
      const Tensors panels = q->finish(slot, work);
      for (size_t i = 0; i < whole.size(); ++i) CHECK(at::equal(panels[i], whole[i]));
      // One token, none, more than are multiplied from codes, a few.
      const at::Tensor offsets = at::tensor({0, 1, 1, 60, 63, 70}, at::kLong), x = at::randn({70, 40}).to(dtype);
      const at::Tensor y = q->grouped(slot, x, offsets, whole);
      const int64_t* first = offsets.const_data_ptr<int64_t>();
      for (int64_t e = 0; e < 5; ++e) {
        if (first[e] == first[e + 1]) continue;
        const at::Tensor expected = at::linear(x.narrow(0, first[e], first[e + 1] - first[e]).to(at::kFloat), dense[e].to(at::kFloat));
        // bfloat16: one rounding of inputs to products and one of the result.
        CHECK(relative(y.narrow(0, first[e], first[e + 1] - first[e]).to(at::kFloat), expected) < (dtype == at::kFloat ? 1e-5 : 0.02));
      }
    }
}

TEST_CASE("panels of rows give the same tensors as the whole weight") {
  for (bool nested : {false, true})
    for (auto [out, in] : {std::pair{96, 128}, std::pair{37, 72}, std::pair{8, 344}, std::pair{5, 50}}) {
      const auto quantizer = stable_quantizer("nf4", Value::Table{{"double_quant", nested}});
      const Quantizer& q = *quantizer;
      const SlotSpec slot = slot_of(out, in);
      const at::Tensor w = at::randn({out, in});
      const Tensors whole = q.quantize(slot, w, nullptr);
      Tensors work = q.begin(slot, at::kCPU);
      const int64_t step = q.row_granule(slot);
      for (int64_t row = 0; row < out; row += step) q.quantize_rows(slot, w.narrow(0, row, std::min<int64_t>(step, out - row)), row, work);
      const Tensors panels = q.finish(slot, work);
      const auto promised = q.resident(slot);
      REQUIRE(panels.size() == promised.size());
      for (size_t i = 0; i < panels.size(); ++i) {
        CHECK(at::equal(panels[i], whole[i]));
        CHECK((panels[i].sizes().vec() == promised[i].shape));
        CHECK((panels[i].scalar_type() == promised[i].dtype));
      }
    }
}

TEST_CASE("products agree with the dequantized weight, fused or not, for odd shapes") {
  for (auto [out, in] : {std::pair{96, 128}, std::pair{37, 72}, std::pair{130, 344}})
    for (int64_t m : {1, 3, 16, 33}) {
      const auto quantizer = stable_quantizer("nf4", Value::Table{{"double_quant", true}});
      const Quantizer& q = *quantizer;
      const SlotSpec slot = slot_of(out, in);
      const Tensors t = q.quantize(slot, at::randn({out, in}), nullptr);
      const at::Tensor x = at::randn({m, in}), dense = q.dequantize(slot, t, at::kFloat, 0, out);
      // float32 sums of at most 344 products: rounding of about sqrt(n) units in the last place.
      CHECK(relative(q.linear(slot, x, t), at::linear(x.to(at::kDouble), dense.to(at::kDouble)).to(at::kFloat)) < 1e-5);
      CHECK(relative(q.grad_input(slot, at::linear(x, dense), t), at::matmul(at::linear(x, dense), dense)) < 1e-5);
    }
}

TEST_CASE("several weights in one call equal one call each") {
  const auto quantizer = stable_quantizer("fp4");
  const Quantizer& q = *quantizer;
  const SlotSpec a = slot_of(64, 128), b = slot_of(37, 128), c = slot_of(200, 128);
  std::vector<Tensors> t;
  for (const auto* s : {&a, &b, &c}) t.push_back(q.quantize(*s, at::randn({s->out, s->in}), nullptr));
  const at::Tensor x = at::randn({2, 1, 128});
  const std::vector<Quantizer::Operand> operands{{&a, &t[0]}, {&b, &t[1]}, {&c, &t[2]}};
  const auto many = q.linear_many(operands, x);
  for (size_t i = 0; i < 3; ++i) CHECK(at::equal(many[i], q.linear(*operands[i].slot, x, t[i])));
}

TEST_CASE("what is packed for a file unpacks to the same tensors, in every storage dtype") {
  for (bool nested : {false, true})
    for (const char* storage : {"uint8", "bfloat16", "float32"}) {
      const auto quantizer = stable_quantizer("nf4", Value::Table{{"double_quant", nested}, {"quant_storage", storage}});
      const Quantizer& q = *quantizer;
      const SlotSpec slot = slot_of(40, 72, at::kBFloat16);
      const Tensors t = q.quantize(slot, at::randn({40, 72}).to(at::kBFloat16), nullptr);
      MemoryFile file;
      for (const auto& [name, tensor] : q.pack(slot, t)) file.tensors[name] = tensor;
      CHECK(q.locate(slot, file).size() == file.tensors.size());
      const Tensors back = q.unpack(slot, file);
      REQUIRE(back.size() == t.size());
      for (size_t i = 0; i < t.size(); ++i) CHECK(at::equal(back[i], t[i]));
    }
}

TEST_CASE("damaged packed weights are refused, each with its own message") {
  const auto quantizer = stable_quantizer("nf4", Value::Table{{"double_quant", true}});
  const Quantizer& q = *quantizer;
  const SlotSpec slot = slot_of(32, 64);
  MemoryFile whole;
  for (const auto& [name, tensor] : q.pack(slot, q.quantize(slot, at::randn({32, 64}), nullptr))) whole.tensors[name] = tensor;
  const std::string w = "model.layers.0.mlp.up_proj.weight";
  auto message = [&](auto&& damage) {
    MemoryFile file = whole;
    damage(file.tensors);
    return error_of([&] { q.unpack(slot, file); }, ErrorCode::Data);
  };
  CHECK(message([](auto&) {}) == "no error");
  CHECK(message([&](auto& t) { t.erase(w + ".nested_absmax"); }).find("nested_absmax' is missing") != std::string::npos);
  CHECK(message([&](auto& t) { t[w] = at::zeros({7, 1}, at::kByte); }).find("has 7 bytes") != std::string::npos);
  CHECK(message([&](auto& t) { t[w + ".nested_absmax"] = t[w + ".nested_absmax"] * NAN; }).find("damaged") != std::string::npos);
  CHECK(message([&](auto& t) { t[w + ".quant_map"] = t[w + ".quant_map"] * 2; }).find("code table") != std::string::npos);
  CHECK(message([&](auto& t) { t[w + ".quant_state.bitsandbytes__nf4"] = at::zeros({4}, at::kByte); }).find("quant_state") !=
        std::string::npos);
}

TEST_CASE("the declared error bound holds on normal weights for every block size") {
  for (int64_t block = 32; block <= 4096; block *= 2)
    for (int type = 0; type < 2; ++type) {
      const auto q = stable_quantizer(type ? "fp4" : "nf4", Value::Table{{"block_size", block}, {"double_quant", true}});
      const SlotSpec slot = slot_of(64, 4096);
      const at::Tensor w = at::randn({64, 4096});
      const at::Tensor error = w - q->dequantize(slot, q->quantize(slot, w, nullptr), at::kFloat);
      CHECK((error.pow(2).mean() / w.pow(2).mean()).sqrt().item<double>() < q->facts().max_relative_error);
    }
}

TEST_CASE("rows of an embedding come dequantized") {
  const auto quantizer = stable_quantizer("nf4");
  const Quantizer& q = *quantizer;
  SlotSpec slot = slot_of(30, 50);
  slot.kind = SlotKind::Embedding;
  const Tensors t = q.quantize(slot, at::randn({30, 50}), nullptr);
  const at::Tensor ids = at::tensor({3, 3, 29, 0}, at::kLong).view({2, 2});
  const at::Tensor dense = q.dequantize(slot, t, at::kFloat, 0, 30);
  CHECK(at::equal(q.rows(slot, ids, t, at::kFloat), dense.index_select(0, ids.view({-1})).view({2, 2, 50})));
  CHECK_THROWS_AS(q.rows(slot, ids + 27, t, at::kFloat), Error);
}
