#include "gptq.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <doctest/doctest.h>

#include <cmath>
#include <map>

#include "support/errors.h"
#include "support/memory_file.h"

using namespace tenon;
using gptq::Gptq;
using tenon::testing::error_of;
using tenon::testing::MemoryFile;

namespace {

const std::string kBase = "model.layers.0.mlp.up_proj";

SlotSpec slot_of(int64_t out, int64_t in, at::ScalarType dtype = at::kFloat) {
  return {.path = kBase, .out = out, .in = in, .dtype = dtype, .stack = 0, .block = 0, .sources = {Source::rename(kBase + ".weight")}};
}

MemoryFile packed(const Gptq& q, const SlotSpec& slot, const Tensors& t) {
  MemoryFile file;
  for (const auto& [name, tensor] : q.pack(slot, t)) file.tensors[name] = tensor;
  return file;
}

Tensors quantized(const Gptq& q, const SlotSpec& slot) {
  const auto observer = q.make_observer(slot);
  observer->observe(at::randn({256, slot.in}) * (at::arange(slot.in) % 5 + 1).to(at::kFloat));
  return q.quantize(slot, at::randn({slot.out, slot.in}).to(slot.dtype), observer.get());
}

double relative(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>() / b.abs().max().item<double>(); }

}  // namespace

TEST_CASE("what is packed for a file unpacks to the same tensors, for every width, version, symmetry, order and size") {
  for (int64_t bits : {2, 3, 4, 8})
    for (const char* format : {"gptq", "gptq_v2"})
      for (bool sym : {true, false})
        for (bool desc_act : {true, false})
          for (int64_t group : {-1, 16, 32, 64})
            for (auto [out, in] : {std::pair<int64_t, int64_t>{64, 96}, {44, 100}, {7, 40}}) {
              const Gptq q({.bits = bits, .group_size = group, .desc_act = desc_act, .sym = sym, .format = format});
              const SlotSpec slot = slot_of(out, in);
              const Tensors t = quantized(q, slot);
              const auto promised = q.resident(slot);
              REQUIRE(t.size() == promised.size());
              for (size_t i = 0; i < t.size(); ++i)
                CHECK(((t[i].sizes().vec() == promised[i].shape) && (t[i].scalar_type() == promised[i].dtype)));
              const MemoryFile file = packed(q, slot, t);
              CHECK(q.locate(slot, file).size() == 4);
              const Tensors back = q.unpack(slot, file);
              REQUIRE(back.size() == t.size());
              CAPTURE(bits);
              CAPTURE(format);
              CAPTURE(sym);
              CAPTURE(desc_act);
              CAPTURE(group);
              CAPTURE(in);
              CHECK(at::equal(q.dequantize(slot, back, at::kFloat), q.dequantize(slot, t, at::kFloat)));
              CHECK(at::equal(file.tensors.at(kBase + ".qweight"), packed(q, slot, back).tensors.at(kBase + ".qweight")));
            }
}

TEST_CASE("where codes do not fill the last word the file has as many words as GPTQModel writes, counted down whole") {
  const Gptq q({.bits = 4, .group_size = 32});
  const SlotSpec slot = slot_of(44, 100);
  const MemoryFile file = packed(q, slot, quantized(q, slot));
  const at::Tensor qweight = file.tensors.at(kBase + ".qweight"), qzeros = file.tensors.at(kBase + ".qzeros");
  CHECK(qweight.sizes().vec() == std::vector<int64_t>{13, 44});
  CHECK(qzeros.sizes().vec() == std::vector<int64_t>{4, 6});
  CHECK(file.tensors.at(kBase + ".scales").sizes().vec() == std::vector<int64_t>{4, 44});
  CHECK((static_cast<uint32_t>(qweight[12][0].item<int>()) >> 16) == 0u);
  CHECK(static_cast<uint32_t>(qzeros[3][0].item<int>()) == 0x77777777u);
  CHECK(static_cast<uint32_t>(qzeros[3][5].item<int>()) == 0x00008888u - 0x11111111u);
}

TEST_CASE("a file says weight = scale * (code - zero), with zero - 1 stored in the first version") {
  const Gptq q({.bits = 4, .group_size = 32, .desc_act = true, .sym = false});
  const SlotSpec slot = slot_of(32, 64);
  const Tensors t = quantized(q, slot);
  const MemoryFile file = packed(q, slot, t);
  const at::Tensor qweight = file.tensors.at(kBase + ".qweight"), qzeros = file.tensors.at(kBase + ".qzeros"),
                   scales = file.tensors.at(kBase + ".scales").to(at::kFloat), g_idx = file.tensors.at(kBase + ".g_idx"),
                   dense = q.dequantize(slot, t, at::kFloat);
  bool same = true;
  for (int64_t o = 0; o < 32; ++o)
    for (int64_t i = 0; i < 64; ++i) {
      const int64_t g = g_idx[i].item<int>(), code = (static_cast<uint32_t>(qweight[i / 8][o].item<int>()) >> (i % 8 * 4)) & 15;
      // The whole word is counted up by one in each code, as GPTQModel does.
      const int64_t zero = ((static_cast<uint32_t>(qzeros[g][o / 8].item<int>()) + 0x11111111u) >> (o % 8 * 4)) & 15;
      same = same && dense[o][i].item<float>() == static_cast<float>(code - zero) * scales[g][o].item<float>();
    }
  CHECK(same);
}

TEST_CASE("products agree with the dequantized weight, fused or not, in every order, size and dtype") {
  for (int64_t bits : {2, 3, 4, 8})
    for (bool desc_act : {true, false})
      for (int64_t m : {1, 3, 16, 33}) {
        const Gptq q({.bits = bits, .group_size = m == 16 ? 16 : 32, .desc_act = desc_act});
        const SlotSpec slot = m == 1 ? slot_of(96, 160) : slot_of(91, 165);
        const Tensors t = quantized(q, slot);
        const at::Tensor x = at::randn({m, slot.in}), dense = q.dequantize(slot, t, at::kFloat);
        // float32 sums of 160 products; bfloat16 results have 8 bits, and beyond the fused sizes bfloat16 weights too.
        CHECK(relative(q.linear(slot, x, t), at::linear(x, dense)) < 1e-5);
        const at::Tensor half = x.to(at::kBFloat16);
        CHECK((q.linear(slot, half, t).scalar_type() == at::kBFloat16));
        CHECK(relative(q.linear(slot, half, t).to(at::kFloat), at::linear(half.to(at::kFloat), dense)) < 2e-2);
        CHECK(relative(q.grad_input(slot, at::linear(x, dense), t), at::matmul(at::linear(x, dense), dense)) < 1e-5);
        CHECK(at::equal(q.dequantize(slot, t, at::kBFloat16), dense.to(at::kBFloat16)));
        CHECK(at::equal(q.dequantize(slot, t, at::kHalf, 5, 9), dense.narrow(0, 5, 4).to(at::kHalf)));
      }
}

TEST_CASE("symmetric files under the wrong version's name are read by what they hold") {
  for (int64_t bits : {2, 3, 4, 8}) {
    const Gptq first({.bits = bits, .group_size = 32, .format = "gptq"}), second({.bits = bits, .group_size = 32, .format = "gptq_v2"});
    const SlotSpec slot = slot_of(32, 64);
    const Tensors t = quantized(first, slot);
    const at::Tensor dense = first.dequantize(slot, t, at::kFloat);
    CHECK(at::equal(first.dequantize(slot, first.unpack(slot, packed(second, slot, t)), at::kFloat), dense));
    CHECK(at::equal(second.dequantize(slot, second.unpack(slot, packed(first, slot, t)), at::kFloat), dense));
  }
}

TEST_CASE("damaged packed weights are refused, each with its own message") {
  const Gptq q({.bits = 4, .group_size = 32, .desc_act = true});
  const SlotSpec slot = slot_of(32, 64);
  const MemoryFile whole = packed(q, slot, quantized(q, slot));
  auto message = [&](auto&& damage) {
    MemoryFile file = whole;
    for (auto& [name, tensor] : file.tensors) tensor = tensor.clone();
    damage(file.tensors);
    return error_of([&] { q.unpack(slot, file); }, ErrorCode::Data);
  };
  auto has = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  CHECK(message([](auto&) {}) == "no error");
  CHECK(has(message([](auto& t) { t.erase(kBase + ".scales"); }), "scales' is missing"));
  CHECK(has(message([](auto& t) { t[kBase + ".qweight"] = at::zeros({7, 32}, at::kInt); }), "expected Int [8, 32]"));
  CHECK(has(message([](auto& t) { t[kBase + ".qzeros"] = at::zeros({2, 5}, at::kInt); }), "expected Int [2, 4]"));
  CHECK(has(message([](auto& t) { t[kBase + ".scales"][0][3] = NAN; }), "not finite"));
  CHECK(has(message([](auto& t) { t.erase(kBase + ".g_idx"); }), "up_proj.g_idx' is missing"));
  CHECK(has(message([](auto& t) { t[kBase + ".g_idx"][3] = 2; }), "group 2, expected 0 to 1"));
  CHECK(has(message([](auto& t) { t[kBase + ".g_idx"][3] = -1; }), "group -1"));
  CHECK(has(message([](auto& t) { t[kBase + ".g_idx"].zero_(); }), "64 columns into group 0"));
  CHECK(has(message([](auto& t) { t[kBase + ".qzeros"].fill_(0x55555555); }), "zero points from 5 to 5"));
  CHECK(has(message([](auto& t) { t[kBase + ".bias"] = at::full({32}, 0.5); }), "not zero"));
  CHECK(message([](auto& t) { t[kBase + ".bias"] = at::zeros({32}); }) == "no error");
  CHECK(has(error_of([&] { Gptq({.bits = 8, .group_size = 32}).unpack(slot, whole); }, ErrorCode::Data),
            "Int [8, 32], expected Int [16, 32] for bits = 8 and group_size = 32"));
  CHECK(has(error_of([&] { Gptq({.bits = 4, .group_size = 64}).unpack(slot, whole); }, ErrorCode::Data), "group_size = 64"));
  Value leave_dense = Value::table();
  leave_dense.set("-:.*up_proj", Value::table());
  const Gptq contradicted({.bits = 4, .group_size = 32, .desc_act = true, .dynamic = leave_dense});
  CHECK(has(error_of([&] { contradicted.unpack(slot, whole); }, ErrorCode::Data), "up_proj' is packed, but dynamic"));
  SlotSpec embedding = slot;
  embedding.kind = SlotKind::Embedding;
  CHECK(has(error_of([&] { q.unpack(embedding, whole); }, ErrorCode::Data), "packed embedding"));
}

namespace {

// Two experts of four rows more than a tile, gate and up apart, as files hold them under `prefix`.
SlotSpec experts_slot(const std::string& prefix, const std::string& gate, const std::string& up) {
  SlotSpec slot{.path = "model.layers.0.mlp.experts.gate_up_proj",
                .kind = SlotKind::Experts,
                .count = 2,
                .out = 40,
                .in = 72,
                .stack = 0,
                .block = 0};
  Source apart{.stack = true};
  for (int e = 0; e < 2; ++e)
    for (const auto& name : {gate, up}) apart.pieces.push_back({concat(prefix, e, ".", name, ".weight"), 0, 20});
  slot.sources = {apart, Source::rename(slot.path)};
  return slot;
}

}  // namespace

TEST_CASE("experts are read as files hold them, each module with an order of its own, and multiplied each with its tokens") {
  for (bool desc_act : {false, true})
    for (const bool taken_apart : {false, true}) {  // the names that GPTQModel 7 gives them
      const Gptq q({.bits = 4, .group_size = 32, .desc_act = desc_act});
      const SlotSpec slot = experts_slot("model.layers.0.block_sparse_moe.experts.", "w1", "w3");
      MemoryFile file;
      std::vector<at::Tensor> dense;
      for (int e = 0; e < 2; ++e)
        for (int part = 0; part < 2; ++part) {
          SlotSpec one = slot_of(20, 72);
          const char* name = taken_apart ? (part ? "up_proj" : "gate_proj") : (part ? "w3" : "w1");
          one.sources = {
              Source::rename(concat("model.layers.0.", taken_apart ? "mlp" : "block_sparse_moe", ".experts.", e, ".", name, ".weight"))};
          const Tensors t = quantized(q, one);
          for (const auto& [key, tensor] : q.pack(one, t)) file.tensors[key] = tensor;
          dense.push_back(q.dequantize(one, t, at::kFloat));
        }
      CHECK(q.locate(slot, file).size() == 16);
      const Tensors t = q.unpack(slot, file);
      const auto promised = q.resident(slot);
      REQUIRE(t.size() == promised.size());
      for (size_t i = 0; i < t.size(); ++i) CHECK(t[i].sizes().vec() == promised[i].shape);
      const at::Tensor weight = q.dequantize(slot, t, at::kFloat, 0, 2);
      CHECK(at::equal(weight, at::cat(dense).view({2, 40, 72})));
      CHECK(at::equal(q.dequantize(slot, t, at::kHalf, 1, 2)[0], weight[1].to(at::kHalf)));
      for (int64_t first : {0, 3, 20}) {  // none, a few and more than a fused product takes
        const at::Tensor x = at::randn({first + 5, 72}), y = q.grouped(slot, x, at::tensor({int64_t{0}, first, first + 5}), t);
        CHECK(relative(y, at::cat({at::linear(x.narrow(0, 0, first), weight[0]), at::linear(x.narrow(0, first, 5), weight[1])})) < 1e-5);
      }
      for (const auto& [name, tensor] : q.pack(slot, t))
        if (!taken_apart) CHECK(at::equal(tensor, file.tensors.at(name)));
      file.tensors.erase(concat("model.layers.0.", taken_apart ? "mlp.experts.1.up_proj" : "block_sparse_moe.experts.1.w3", ".qzeros"));
      CHECK(q.locate(slot, file).size() == 16);  // the one that is missing included: key accounting names it
    }
}

TEST_CASE("experts of one layer with settings of their own are refused by name") {
  const SlotSpec slot = experts_slot("model.layers.0.mlp.experts.", "gate_proj", "up_proj");
  Value rule = Value::table(), dynamic = Value::table();
  rule.set("bits", 8);
  dynamic.set("+:.*experts\\.1\\.up_proj", rule);
  const Gptq plain({.bits = 4, .group_size = 32}), q({.bits = 4, .group_size = 32, .dynamic = dynamic});
  MemoryFile file;
  for (const Source::Piece& piece : slot.sources[0].pieces) {
    SlotSpec one = slot_of(20, 72);
    one.sources = {Source::rename(piece.tensor)};
    for (const auto& [key, tensor] : plain.pack(one, quantized(plain, one))) file.tensors[key] = tensor;
  }
  CHECK(error_of([&] { plain.unpack(slot, file); }) == "no error");
  CHECK(error_of([&] { q.unpack(slot, file); }, ErrorCode::Data).find("experts.1.up_proj' other bits") != std::string::npos);
  CHECK_FALSE(q.supports(slot).yes);
}

TEST_CASE("configs in the forms that others write are recognised; the data says whether columns are ordered") {
  const SlotSpec slot = slot_of(32, 64);
  const Gptq q({.bits = 4, .group_size = 32, .desc_act = true}), plain({.bits = 4, .group_size = 32});
  const MemoryFile ordered = packed(q, slot, quantized(q, slot)), in_order = packed(plain, slot, quantized(plain, slot));
  Value config = Value::table();
  config.set("bits", 4), config.set("group_size", 32), config.set("desc_act", true), config.set("sym", true);
  CHECK(q.recognise(config, ordered)->at("desc_act").as_bool());  // quantize_config.json of old: no method
  CHECK_FALSE(q.recognise(config, in_order)->at("desc_act").as_bool());
  config.set("quant_method", "gptq"), config.set("checkpoint_format", "gptq_v2");
  CHECK(q.recognise(config, ordered)->at("format").as_string() == "gptq_v2");
  config.set("quant_method", "awq");
  CHECK_FALSE(q.recognise(config, ordered).has_value());
  config.set("quant_method", "gptq"), config.set("bits", 5);
  CHECK_THROWS_WITH(q.recognise(config, ordered), doctest::Contains("bits: 5 is none"));
  config.set("bits", 4), config.set("checkpoint_format", "marlin");
  CHECK_THROWS_WITH(q.recognise(config, ordered), doctest::Contains("marlin"));
  config.set("checkpoint_format", "gptq"), config.set("bits", "4");
  CHECK_THROWS_WITH(q.recognise(config, ordered), doctest::Contains("bits: expected"));
  config.set("bits", 4), config.set("is_marlin_format", true);
  CHECK_THROWS_WITH(q.recognise(config, ordered), doctest::Contains("is_marlin_format"));
  config.erase("is_marlin_format");
  MemoryFile without = ordered;
  without.tensors.erase(kBase + ".g_idx");
  CHECK_THROWS_WITH(q.recognise(config, without), doctest::Contains("up_proj.g_idx' is missing"));
  config.set("static_groups", true);
  CHECK(q.recognise(config, without).has_value());
  config.set("damp_percent", 0), config.set("true_sequential", false);
  CHECK(q.recognise(config, without)->find("damp_percent") == nullptr);  // of no use here, and no obstacle to reading
  CHECK_FALSE(q.recognise(config, without)->at("true_sequential").as_bool());
  config.set("static_groups", "yes");
  CHECK_THROWS_WITH(q.recognise(config, without), doctest::Contains("quantization_config: 'static_groups'"));
  const Value own = q.quantization_config({"lm_head", "model.layers.1.mlp.up_proj"}, at::kBFloat16);
  const auto options = q.recognise(own, ordered);
  REQUIRE(options.has_value());
  CHECK(own.at("dynamic").find("-:model\\.layers\\.1\\.mlp\\.up_proj$") != nullptr);
  CHECK(options->at("bits").as_int() == 4);
  CHECK_FALSE(own.at("lm_head").as_bool());
  CHECK(q.quantization_config({"model.layers.1.mlp.up_proj"}, at::kBFloat16).at("lm_head").as_bool());
}

TEST_CASE("what stayed dense is named in front of a pattern that would match it too") {
  Value rule = Value::table(), dynamic = Value::table();
  rule.set("bits", 8);
  dynamic.set("+:.*proj", rule);
  const Gptq q({.bits = 4, .group_size = 32, .dynamic = dynamic});
  const Value config = q.quantization_config({"model.layers.1.mlp.up_proj"}, at::kBFloat16);
  CHECK(config.at("dynamic").as_table().front().first == "-:model\\.layers\\.1\\.mlp\\.up_proj$");
  CHECK(config.at("dynamic").as_table().size() == 2);
}

TEST_CASE("options differ by module where dynamic says so, and modules may stay dense") {
  Value rule = Value::table(), dynamic = Value::table();
  rule.set("bits", 8), rule.set("group_size", 64);
  dynamic.set("-:.*down_proj", Value::table()), dynamic.set("+:model\\.layers\\.0\\.", rule);
  const Gptq q({.bits = 4, .group_size = 32, .dynamic = dynamic});
  SlotSpec up = slot_of(32, 128), down = up, other = up;
  down.path = "model.layers.0.mlp.down_proj", other.path = "model.layers.1.mlp.up_proj";
  other.sources = {Source::rename(other.path + ".weight")};
  CHECK(q.resident(up)[0].shape[1] == 32);  // 8 bits
  CHECK(q.resident(up)[1].shape[1] == 2);
  CHECK(q.resident(other)[0].shape[1] == 16);
  CHECK_FALSE(q.supports(down).yes);
  CHECK(q.supports(other).yes);
  CHECK(q.supports(slot_of(32, 172)).yes);
  CHECK(Gptq({.bits = 3}).supports(slot_of(32, 172)).reason.find("the weight is 32 x 172") != std::string::npos);
  SlotSpec named = other;  // files of other releases call the module otherwise
  named.path = "model.language.layers.0.mlp.down_proj", named.sources = {Source::rename("language.model.layers.0.mlp.down_proj.weight")};
  CHECK_FALSE(Gptq({.dynamic =
                        [] {
                          Value by_file_name = Value::table();
                          by_file_name.set("-:language\\.model\\.", Value::table());
                          return by_file_name;
                        }()})
                  .supports(named)
                  .yes);
}

TEST_CASE("the declared error bound holds on normal weights that are rounded without calibration") {
  for (int64_t bits : {2, 3, 4, 8})
    for (int64_t group : {32, 128, -1}) {
      const Gptq q({.bits = bits, .group_size = group});
      const SlotSpec slot = slot_of(64, 4096);
      const at::Tensor w = at::randn({64, 4096}), error = w - q.dequantize(slot, q.quantize(slot, w, nullptr), at::kFloat);
      CHECK((error.pow(2).mean() / w.pow(2).mean()).sqrt().item<double>() < q.facts().max_relative_error);
    }
}
