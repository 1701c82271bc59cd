// Through the C table, as the host uses it.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/round.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <doctest/doctest.h>

#include <limits>
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

// LLM.int8() written out: x [rows, in] float32, codes and scales of the weight.
at::Tensor definition(const at::Tensor& x, const Tensors& weight, double threshold) {
  const at::Tensor outliers = threshold > 0 ? x.abs() >= threshold : at::zeros_like(x, at::kBool);
  const at::Tensor columns = outliers.any(0), kept = x.masked_fill(outliers, 0);
  const at::Tensor scale = kept.abs().amax(1, true);
  const at::Tensor codes = at::round(kept * (scale.reciprocal() * 127.0)).masked_fill(columns, 0).to(at::kDouble);
  const at::Tensor w = weight[0].to(at::kDouble), s = weight[1].to(at::kDouble);
  const at::Tensor apart = x.to(at::kDouble).masked_fill(columns.logical_not(), 0);
  return at::linear(codes, w) * (scale.to(at::kDouble) * s / (127.0 * 127.0)) + at::linear(apart, w * (s / 127).unsqueeze(1));
}

double relative(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>() / b.abs().max().item<double>();
}

}  // namespace

TEST_CASE("products equal the definition: few rows and many, with outliers, without, all of them") {
  for (const double threshold : {0.0, 3.0, 1e-6})
    for (const auto& [out, in] : {std::pair{5, 7}, std::pair{64, 128}, std::pair{33, 200}})
      for (const int64_t rows : {1, 2, 16, 17, 40}) {
        CAPTURE(threshold);
        CAPTURE(in);
        CAPTURE(rows);
        const auto q = stable_quantizer("int8", Value::Table{{"threshold", threshold}});
        const SlotSpec slot = slot_of(out, in);
        const Tensors weight = q->quantize(slot, at::randn({out, in}), nullptr);
        const at::Tensor x = at::randn({rows, in}) * 1.5;
        const at::Tensor expected = definition(x, weight, threshold);
        CHECK(relative(q->linear(slot, x, weight), expected) < 1e-5);  // float32 sums of the outliers
        CHECK(relative(q->linear(slot, x.to(at::kBFloat16), weight), definition(x.to(at::kBFloat16).to(at::kFloat), weight, threshold)) <
              1.0 / 250);
        // Weights that share x are what they are alone.
        const Quantizer::Operand both[] = {{&slot, &weight}, {&slot, &weight}};
        const auto many = q->linear_many(both, x);
        CHECK(at::equal(many[0], many[1]));
        CHECK(at::equal(many[0], q->linear(slot, x, weight)));
      }
}

TEST_CASE("experts are packed one below the other: in panels, back, and multiplied each with its tokens") {
  const auto q = stable_quantizer("int8", {});
  SlotSpec slot = slot_of(19, 40, at::kFloat);
  slot.kind = SlotKind::Experts, slot.count = 4;
  CHECK(q->supports(slot).yes);
  const at::Tensor w = at::randn({4, 19, 40});
  const Tensors whole = q->quantize(slot, w, nullptr);
  Tensors work = q->begin(slot, at::kCPU);
  for (int64_t e = 0; e < 4; ++e) q->quantize_rows(slot, w.narrow(0, e, 1), e, work);
  const Tensors panels = q->finish(slot, work);
  for (size_t i = 0; i < whole.size(); ++i) CHECK(at::equal(panels[i], whole[i]));
  const at::Tensor offsets = at::tensor({0, 1, 1, 40, 43}, at::kLong), x = at::randn({43, 40});
  const at::Tensor y = q->grouped(slot, x, offsets, whole);
  const int64_t* first = offsets.const_data_ptr<int64_t>();
  for (int64_t e = 0; e < 4; ++e) {
    // Each expert is a layer of its own.
    const Tensors own = q->quantize(slot_of(19, 40, at::kFloat), w[e].contiguous(), nullptr);
    CHECK(at::equal(q->dequantize(slot, whole, at::kFloat, e, e + 1)[0], q->dequantize(slot_of(19, 40, at::kFloat), own, at::kFloat)));
    if (first[e] == first[e + 1]) continue;
    const at::Tensor part = x.narrow(0, first[e], first[e + 1] - first[e]);
    CHECK(at::equal(y.narrow(0, first[e], part.size(0)), q->linear(slot_of(19, 40, at::kFloat), part, own)));
  }
}

TEST_CASE("panels of rows give the same tensors as the whole weight, in what resident promises") {
  const auto q = stable_quantizer("int8", {});
  const SlotSpec slot = slot_of(37, 72, at::kBFloat16);
  const at::Tensor w = at::randn({37, 72}).to(at::kBFloat16);
  const Tensors whole = q->quantize(slot, w, nullptr);
  CHECK(q->row_granule(slot) == 1);
  Tensors work = q->begin(slot, at::kCPU);
  for (int64_t row = 0; row < 37; row += 5) q->quantize_rows(slot, w.narrow(0, row, std::min<int64_t>(5, 37 - row)), row, work);
  const Tensors panels = q->finish(slot, work);
  const auto promised = q->resident(slot);
  REQUIRE(panels.size() == promised.size());
  for (size_t i = 0; i < panels.size(); ++i) {
    CHECK(at::equal(panels[i], whole[i]));
    CHECK((panels[i].sizes().vec() == promised[i].shape));
    CHECK((panels[i].scalar_type() == promised[i].dtype));
  }
  const at::Tensor dense = q->dequantize(slot, whole, at::kFloat);
  CHECK((dense - w.to(at::kFloat)).norm().item<double>() <= q->facts().max_relative_error * w.to(at::kFloat).norm().item<double>());
  CHECK(at::equal(q->dequantize(slot, whole, at::kFloat, 3, 9), dense.narrow(0, 3, 6)));
}

TEST_CASE("what is packed is unpacked; what is damaged is named") {
  const auto q = stable_quantizer("int8", {});
  const SlotSpec slot = slot_of(6, 8);
  const Tensors weight = q->quantize(slot, at::randn({6, 8}), nullptr);
  MemoryFile file;
  for (auto& [name, tensor] : q->pack(slot, weight)) file.tensors[name] = tensor;
  CHECK(file.tensors.size() == 3);
  CHECK(q->locate(slot, file).size() == 3);
  const Tensors back = q->unpack(slot, file);
  CHECK(at::equal(back[0], weight[0]));
  CHECK(at::equal(back[1], weight[1]));

  const std::string base = "model.layers.0.mlp.up_proj";
  MemoryFile bad = file;
  bad.tensors[base + ".weight_format"] = at::full({}, 2, at::kByte);
  CHECK(error_of([&] { q->unpack(slot, bad); }).find("says layout 2, expected 0") != std::string::npos);
  bad = file;
  bad.tensors[base + ".SCB"] = at::full({6}, std::numeric_limits<float>::quiet_NaN());
  CHECK(error_of([&] { q->unpack(slot, bad); }).find(".SCB' holds nan at 0") != std::string::npos);
  bad = file;
  bad.tensors.erase(base + ".SCB");
  CHECK(error_of([&] { q->unpack(slot, bad); }).find(".SCB' is missing") != std::string::npos);
  bad = file;
  bad.tensors[base + ".weight"] = at::zeros({6, 9}, at::kChar);
  CHECK(error_of([&] { q->unpack(slot, bad); }).find("is int8 [6, 9], expected int8 [6, 8]") != std::string::npos);
  bad = file;
  bad.tensors[base + ".weight"] = at::randn({6, 8});  // stored dense: not ours
  CHECK(q->locate(slot, bad).empty());
}

TEST_CASE("a checkpoint's config is recognised, and what is written is recognised again") {
  const auto q = stable_quantizer("int8", Value::Table{{"llm_int8_threshold", 4.5}});
  const MemoryFile file;
  const Value config = q->quantization_config({"lm_head"}, at::kBFloat16);
  CHECK(config.at("llm_int8_threshold").as_float() == 4.5);
  const auto options = q->recognise(config, file);
  REQUIRE(options);
  CHECK(options->at("threshold").as_float() == 4.5);
  Value four_bit = config;
  four_bit.set("load_in_8bit", false), four_bit.set("load_in_4bit", true);
  CHECK(!q->recognise(four_bit, file));
}
