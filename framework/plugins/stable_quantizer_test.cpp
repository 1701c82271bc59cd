// The stable tier from the host's side: plugins built as strangers' are (tests/stable), and tables written by hand for what no plugin of
// today looks like.
#include "plugins/stable_quantizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <doctest/doctest.h>

#include <cstring>
#include <map>

#include "base/log.h"
#include "base/options.h"
#include "plugins/registry.h"
#include "plugins/stable_services.h"
#include "support/errors.h"
#include "support/memory_file.h"
#include "support/paths.h"

namespace fs = std::filesystem;
using namespace tenon;
using namespace tenon::host;
using tenon::testing::contains;
using tenon::testing::error_of;
using tenon::testing::MemoryFile;

namespace {

Registry registry_of(const std::string& name) {
  const fs::path file = testing::build_dir() / "tests" / "stable" / ("lib" + name + ".so");
  return Registry(discover_plugins({.plugin_dirs = {}, .plugin_files = {file}, .bundled_only = false}));
}

// Loaded once for the process, as any plugin.
const Provider<Quantizer>& odd() {
  static auto* const registry = new Registry(registry_of("stable_odd"));
  return registry->quantizer("odd");
}

SlotSpec slot_of(int64_t out, int64_t in) {
  return {.path = "model.layers.0.up", .out = out, .in = in, .sources = {Source::rename("model.layers.0.up.weight")}};
}

at::Tensor bytes_of(const std::string& text) {
  at::Tensor bytes = at::zeros({static_cast<int64_t>(text.size())}, at::kByte);
  std::memcpy(bytes.mutable_data_ptr(), text.data(), text.size());
  return bytes;
}

}  // namespace

TEST_CASE("a stable plugin of the least that a quantizer brings works whole through the host's defaults") {
  Registry registry = registry_of("stable_rtn");
  const auto& provider = registry.quantizer("stable_rtn");
  CHECK(provider.summary == "8-bit integers, one scale a row.");
  const auto q = provider.make(Value::table());
  CHECK(q->format() == "stable_rtn/1");
  CHECK(q->facts().bits_per_weight == 8);
  CHECK((q->facts().devices == std::vector<std::string>{"cpu", "cuda"}));
  CHECK((q->facts().compute_dtypes == std::vector<at::ScalarType>{at::kHalf, at::kFloat, at::kBFloat16}));

  const SlotSpec slot = slot_of(37, 50);
  CHECK(q->supports(slot).yes);
  SlotSpec embedding = slot;
  embedding.kind = SlotKind::Embedding;
  CHECK_FALSE(q->supports(embedding).yes);
  const at::Tensor w = at::randn({37, 50});
  const Tensors t = q->quantize(slot, w, nullptr);
  const auto promised = q->resident(slot);
  REQUIRE(t.size() == promised.size());
  for (size_t i = 0; i < t.size(); ++i) {
    CHECK((t[i].sizes().vec() == promised[i].shape));
    CHECK((t[i].scalar_type() == promised[i].dtype));
  }
  // The same arithmetic in LibTorch's own operations.
  const at::Tensor scale = (w.abs().amax({1}, true) * at::tensor(1.0 / 127, at::kFloat)).clamp_min(1e-30);
  CHECK(at::equal(t[0], (w / scale).round().clamp(-127, 127).to(at::kChar)));
  CHECK(at::equal(t[1], scale));
  const at::Tensor dense = q->dequantize(slot, t, at::kFloat);
  CHECK(at::equal(dense, t[0].to(at::kFloat) * t[1]));
  CHECK(at::equal(q->dequantize(slot, t, at::kFloat, 5, 9), dense.narrow(0, 5, 4)));
  CHECK((q->dequantize(slot, t, at::kBFloat16).scalar_type() == at::kBFloat16));

  const at::Tensor x = at::randn({2, 3, 50}), dy = at::randn({2, 3, 37});
  CHECK(at::equal(q->linear(slot, x, t), at::linear(x, dense)));
  CHECK(at::equal(q->grad_input(slot, dy, t), at::matmul(dy, dense)));
  const at::Tensor ids = at::tensor({3, 3, 36}, at::kLong);
  CHECK(at::equal(q->rows(slot, ids, t, at::kFloat), dense.index_select(0, ids)));
  CHECK(q->make_observer(slot) == nullptr);
  CHECK(q->locate(slot, MemoryFile()).empty());
  CHECK(contains(error_of([&] { q->pack(slot, t); }, ErrorCode::Internal), "does not offer writing of packed files"));

  Tensors work = q->begin(slot, at::kCPU);
  CHECK(q->row_granule(slot) == 1);
  for (int64_t row = 0; row < 37; row += 10) q->quantize_rows(slot, w.narrow(0, row, std::min<int64_t>(10, 37 - row)), row, work);
  const Tensors panels = q->finish(slot, work);
  for (size_t i = 0; i < t.size(); ++i) CHECK(at::equal(panels[i], t[i]));
}

TEST_CASE("a row of experts: the default multiplies one expert after another") {
  const auto q = odd().make(Value::table());
  SlotSpec slot = slot_of(4, 6);
  slot.kind = SlotKind::Experts, slot.count = 3;
  const at::Tensor w = at::randn({3, 4, 6}), x = at::randn({5, 6});
  const Tensors t = q->quantize(slot, w, nullptr);
  const at::Tensor y = q->grouped(slot, x, at::tensor({0, 2, 2, 5}, at::kLong), t);
  CHECK(at::equal(y, at::cat({at::linear(x.narrow(0, 0, 2), w[0]), at::linear(x.narrow(0, 2, 3), w[2])})));
}

TEST_CASE("options arrive: defaults, values, constraints, retired names") {
  const auto& table = odd().options;
  REQUIRE(table.rows.size() == 6);
  CHECK(table.rows[0].default_value == Value(7));
  CHECK(table.rows[0].doc == "A number.");
  CHECK(table.rows[4].type == "list of strings");
  CHECK(table.rows[4].default_value == Value(std::vector<std::string>{"a", "b"}));
  CHECK(table.rows[5].default_value.is_null());
  CHECK(constraint_text(table.rows[0]) == "1 to 9");
  CHECK(constraint_text(table.rows[3]) == "one | two");
  CHECK((table.retired == std::vector<std::pair<std::string, std::string>>{{"numbr", "it is called number now"}}));

  auto problems = [&](Value options) {
    const auto all = check_options(table, options, "quantizer odd", [](const Value&) { return std::string("recipe.toml:3:1"); });
    return all.empty() ? std::string() : all.front();
  };
  CHECK(problems(Value(Value::Table{{"number", 9}})).empty());
  CHECK(contains(problems(Value(Value::Table{{"number", 10}})), "number"));
  CHECK(contains(problems(Value(Value::Table{{"number", 10}})), "1 to 9"));
  CHECK(contains(problems(Value(Value::Table{{"number", "x"}})), "expected int, found string"));
  CHECK(contains(problems(Value(Value::Table{{"word", "tow"}})), "did you mean 'two'?"));
  CHECK(contains(problems(Value(Value::Table{{"share", 0.25}})), "a quarter is not allowed, a half is"));
  CHECK(contains(problems(Value(Value::Table{{"numbr", 1}})), "it is called number now"));
  CHECK(contains(problems(Value(Value::Table{{"shar", 1}})), "did you mean 'share'?"));

  const auto q = odd().make(Value(Value::Table{{"number", 3}, {"words", Value::List{"x", "", "z"}}}));
  const Value config = q->quantization_config({"lm_head", "b"}, at::kBFloat16);
  CHECK(config.at("number").as_int() == 3);
  CHECK(config.at("words") == Value(std::vector<std::string>{"x", "", "z"}));
  CHECK(config.at("share").as_float() == 0.5);
  CHECK(config.at("skipped") == Value(std::vector<std::string>{"lm_head", "b"}));
  CHECK(config.at("dtype").as_int() == static_cast<int>(at::kBFloat16));
}

TEST_CASE("errors cross whole, with their code, whatever was thrown") {
  CHECK(contains(error_of(
                     [] {
                       odd().make(Value(Value::Table{{"fails", "create"}}));
                     },
                     ErrorCode::Recipe),
                 "plugin org.example.stable_odd: no, not with number 7"));
  const SlotSpec slot = slot_of(3, 5);
  auto quantize = [&](const char* how, ErrorCode code) {
    const auto q = odd().make(Value(Value::Table{{"fails", how}}));
    return error_of([&] { q->quantize(slot, at::ones({3, 5}), nullptr); }, code);
  };
  const std::string text = quantize("quantize", ErrorCode::Plugin);
  CHECK(text ==
        "the weight of model.layers.0.up is not to its taste, and this is a long text that arrives whole: " + std::string(500, 'x') + "!");
  CHECK(contains(quantize("an int", ErrorCode::Plugin), "threw something that is no exception"));
  CHECK(contains(quantize("LibTorch", ErrorCode::Plugin), "API call failed at"));
  const auto q = odd().make(Value(Value::Table{{"fails", "thread"}}));
  const Tensors t = q->quantize(slot, at::ones({3, 5}), nullptr);
  CHECK(error_of([&] { q->grad_input(slot, at::ones({2, 3}), t); }, ErrorCode::Plugin) == "a thread failed");
}

TEST_CASE("a function that is there may leave single calls to the host") {
  const auto q = odd().make(Value::table());
  const SlotSpec slot = slot_of(4, 6);
  const at::Tensor w = at::randn({4, 6});
  const Tensors t = q->quantize(slot, w, nullptr);
  const at::Tensor two = at::randn({2, 6}), three = at::randn({3, 6});
  CHECK(at::equal(q->linear(slot, two, t), at::linear(two, w) * 2));  // its own, wrong on purpose
  CHECK(at::equal(q->linear(slot, three, t), at::linear(three, w)));
  // linear_many is left null: one linear after another.
  const std::vector<Quantizer::Operand> operands{{&slot, &t}, {&slot, &t}};
  CHECK(at::equal(q->linear_many(operands, two)[1], at::linear(two, w) * 2));
  CHECK(q->supports(slot_of(100, 2)).yes);
  CHECK(q->supports(slot_of(101, 2)).reason == "more than 100 rows");
  SlotSpec embedding = slot_of(101, 2);
  embedding.kind = SlotKind::Embedding;
  CHECK(contains(q->supports(embedding).reason, "embeddings are not quantized"));
  CHECK(q->row_granule(slot) == 0);
}

TEST_CASE("observers, threads and gradients reach the plugin") {
  const auto q = odd().make(Value::table());
  const SlotSpec slot = slot_of(4, 6);
  const at::Tensor w = at::randn({4, 6}), dy = at::randn({2, 4});
  auto observer = q->make_observer(slot);
  REQUIRE(observer);
  CHECK(q->facts().calibrates_by_stage);
  CHECK(q->calibration_bytes(slot) == 48);
  observer->observe(at::ones({3, 6}));
  observer->observe(at::ones({2, 6}));
  CHECK(at::equal(q->quantize(slot, w, observer.get())[0][0], w + 5));
  CHECK(at::allclose(q->grad_input(slot, dy, q->quantize(slot, w, nullptr)), at::matmul(dy, w), 1e-6, 1e-6));  // sums of 4 products
}

TEST_CASE("files: names, specs, tensors, JSON and sources cross both ways") {
  const auto q = odd().make(Value::table());
  MemoryFile file;
  file.tensors["a.weight"] = at::randn({2, 2});
  file.tensors["state"] = bytes_of(R"({"number": 3, "list": [1, 2.5, "x", null, {"deep": true}]})");
  CHECK_FALSE(q->recognise(Value(Value::Table{{"quant_method", "other"}}), file).has_value());
  const Value config(Value::Table{{"quant_method", "odd"}});
  const auto state = q->recognise(config, file);
  REQUIRE(state.has_value());
  CHECK(state->at("number").as_int() == 3);
  CHECK(state->at("names") == Value(std::vector<std::string>{"a.weight", "state"}));
  CHECK(state->at("shape").as_list()[0].as_int() == file.tensors["state"].numel());
  CHECK(state->at("again").as_string() == R"([1,2.5,"x",null,{"deep":true}])");
  CHECK(state->at("list").as_list()[4].at("deep").as_bool());

  file.tensors["state"] = bytes_of("{1}");
  CHECK(contains(error_of([&] { q->recognise(config, file); }, ErrorCode::Data), "state:1:3"));
  file.tensors.erase("state");
  // The host's own error comes back as it was thrown.
  CHECK(error_of([&] { q->recognise(config, file); }, ErrorCode::Data) == "there is no tensor 'state'");

  SlotSpec slot = slot_of(2, 2);
  slot.sources = {Source{{{"a.weight", 1, 3}, {"b.weight"}}}, Source::rename("a.weight")};
  CHECK((q->locate(slot, file) == std::vector<std::string>{"a.weight:1:3", "a.weight:0:-1"}));
  file.tensors[slot.path] = at::randn({2, 2});
  CHECK(at::equal(q->unpack(slot, file)[0], file.tensors[slot.path]));
  const auto packed = q->pack(slot, {file.tensors["a.weight"]});
  REQUIRE(packed.size() == 1);
  CHECK(packed[0].name == "model.layers.0.up.packed");
  CHECK(at::equal(packed[0].tensor, file.tensors["a.weight"]));
}

TEST_CASE("one library may provide several quantizers") {
  Registry registry = registry_of("stable_odd");
  CHECK(registry.quantizer("odd_too").make(Value::table())->format() == "odd/3");
  CHECK(registry.names_with("quantizer", "method", "odd") == std::vector<std::string>{"odd"});
}

// ---- tables of other releases, by hand ----

namespace {

tenon_services_v1 host_services{};

int32_t create(const tenon_quantizer_v1*, tenon_call*, const tenon_entry*, int64_t, void** self) {
  return *self = &host_services, TENON_OK;
}
void destroy(void*) {}
int32_t format(void*, tenon_call* call) { return host_services.put_text(call, "hand/1", 6), TENON_OK; }
int32_t facts(void*, tenon_call*, tenon_facts_v1* out) { return out->bits_per_weight = 32, TENON_OK; }
int32_t resident(void*, tenon_call*, const tenon_slot_v1*) { return TENON_OK; }
int32_t quantize(void*, tenon_call*, const tenon_slot_v1*, tenon_tensor, void*) { return TENON_OK; }
int32_t dequantize(void*, tenon_call*, const tenon_slot_v1*, const tenon_tensor*, int64_t, int32_t, int64_t, int64_t, tenon_tensor*) {
  return TENON_OK;
}
int32_t supports_nothing(void*, tenon_call* call, const tenon_slot_v1*) { return host_services.put_text(call, "no", 2), TENON_OK; }
int32_t bad_code(void*, tenon_call*, const tenon_slot_v1*) { return 12345; }
int32_t no_default(void*, tenon_call*, const tenon_slot_v1*) { return TENON_USE_DEFAULT; }

tenon_quantizer_v1 hand_table() {
  tenon_quantizer_v1 t{};
  t.size = sizeof t, t.name = "hand", t.summary = "By hand.";
  t.create = create, t.destroy = destroy, t.format = format, t.facts = facts, t.resident = resident;
  t.quantize = quantize, t.dequantize = dequantize;
  return t;
}

// What the next entry returns; a C function has no other way to know.
const tenon_plugin_v1* next = nullptr;
const tenon_plugin_v1* entry(const tenon_services_v1* services, tenon_call* call) {
  host_services = *services;
  if (!next) services->fail(call, TENON_ERROR_DEVICE, "not today", 9);
  return next;
}

std::unique_ptr<Quantizer> made(const tenon_quantizer_v1* table) {
  const tenon_plugin_v1 plugin{sizeof plugin, 0, &table, 1};
  next = &plugin;
  Registrar registrar;
  register_stable_plugin("org.example.hand", entry, registrar);
  next = nullptr;
  return registrar.quantizers.at(0).make(Value::table());
}

}  // namespace

TEST_CASE("a shorter table, of an older plugin, has null behind its end") {
  // Memory behind the end that must not be read: it would crash the call.
  tenon_quantizer_v1 t = hand_table();
  t.supports = supports_nothing;
  t.linear = reinterpret_cast<decltype(t.linear)>(1);
  t.size = offsetof(tenon_quantizer_v1, supports);
  CHECK(made(&t)->supports(slot_of(2, 2)).yes);
  t.size = offsetof(tenon_quantizer_v1, row_granule);
  CHECK_FALSE(made(&t)->supports(slot_of(2, 2)).yes);
  t.size = offsetof(tenon_quantizer_v1, dequantize);
  CHECK(contains(error_of([&] { made(&t); }, ErrorCode::Plugin), "its table of quantizer 'hand' lacks a required function"));
}

TEST_CASE("a longer table, of a newer plugin, is read as far as it is known") {
  struct {
    tenon_quantizer_v1 known;
    void* later[4];
  } t{hand_table(), {&t, &t, &t, &t}};
  t.known.size = sizeof t;
  const auto q = made(&t.known);
  CHECK(q->format() == "hand/1");
  CHECK(q->facts().bits_per_weight == 32);
  // What the plugin left alone keeps its stated default.
  CHECK((q->facts().devices == std::vector<std::string>{"cpu"}));
  CHECK((q->facts().compute_dtypes == std::vector<at::ScalarType>{at::kHalf, at::kFloat, at::kBFloat16}));
  CHECK_FALSE(q->facts().needs_calibration);
  CHECK(q->row_granule(slot_of(2, 2)) == 0);
}

TEST_CASE("lists that are not there, or have holes, are the plugin's error and no crash") {
  auto error = [](const tenon_quantizer_v1& t) { return error_of([&] { made(&t); }, ErrorCode::Plugin); };
  tenon_quantizer_v1 t = hand_table();
  t.option_count = 2;
  CHECK(contains(error(t), "its table has 2 options of quantizer 'hand' and no list of them"));
  tenon_option_v1 nameless{};
  nameless.size = sizeof nameless, nameless.doc = "Text.", nameless.type = "int";
  const tenon_option_v1* options[] = {&nameless, nullptr};
  t.options = options;
  CHECK(contains(error(t), "number 1 of its 2 options of quantizer 'hand' is missing"));
  t.option_count = 1;
  CHECK(contains(error(t), "an option '' has no name, text or type"));
  nameless.name = "mode", nameless.choice_count = 3;
  CHECK(contains(error(t), "3 choices of option 'mode'"));
  t.option_count = -1;
  CHECK(contains(error(t), "its table has -1 options"));
  t.option_count = 0, t.retired_count = 1;
  CHECK(contains(error(t), "retired options of quantizer 'hand'"));
  CHECK(contains(error_of([] { made(nullptr); }, ErrorCode::Plugin), "number 0 of its 1 quantizers is missing"));
}

TEST_CASE("a required function that is null, nothing where a tensor is due, codes that nobody knows: each is the plugin's error") {
  tenon_quantizer_v1 t = hand_table();
  t.format = nullptr;
  CHECK(contains(error_of([&] { made(&t); }, ErrorCode::Plugin), "lacks a required function"));
  t = hand_table();
  CHECK(contains(error_of([&] { made(&t)->dequantize(slot_of(2, 2), {}, at::kFloat, 0, 2); }, ErrorCode::Plugin),
                 "dequantize: it returned no tensor"));
  t.resident = bad_code;
  CHECK(contains(error_of([&] { made(&t)->resident(slot_of(2, 2)); }, ErrorCode::Plugin), "it failed with code 12345 and without a word"));
  t.resident = no_default;
  CHECK(contains(error_of([&] { made(&t)->resident(slot_of(2, 2)); }, ErrorCode::Plugin), "asks for a default where there is none"));
  next = nullptr;
  Registrar registrar;
  CHECK(error_of([&] { register_stable_plugin("org.example.hand", entry, registrar); }, ErrorCode::Plugin) == "not today");
}

TEST_CASE("a plugin's log lines carry its id") {
  std::string line;
  set_log_sink([&](LogLevel level, std::string_view text) { line = concat(static_cast<int>(level), text); });
  const std::string id = "org.example.hand";
  tenon_call call(id);
  stable_services().log(&call, 1, "careful", 7);
  set_log_sink(nullptr);
  CHECK(line == concat(static_cast<int>(LogLevel::Warn), "org.example.hand: careful"));
}
