#include <doctest/doctest.h>

#include <set>

#include "model/choose.h"
#include "model/devices.h"
#include "model/ledger.h"
#include "model/placement.h"
#include "model/plan.h"
#include "model/precision.h"
#include "model/random_init.h"

#include <ATen/ops/equal.h>

using namespace tenon;
using namespace tenon::host;

namespace {

constexpr int64_t kMiB = 1 << 20;

struct FakeQuantizer final : Quantizer {
  std::string format() const override { return "fake/1"; }
  QuantizerFacts facts() const override { return {.devices = devices}; }
  std::vector<std::string> devices{"cpu"};
  std::vector<TensorSpec> resident(const SlotSpec&) const override { return {}; }
  Tensors quantize(const SlotSpec&, const at::Tensor&, const Observer*) const override { return {}; }
  at::Tensor dequantize(const SlotSpec&, const Tensors&, at::ScalarType, int64_t, int64_t) const override { return {}; }
};

Blueprint small_blueprint() {
  Blueprint b;
  b.slots = {{.path = "model.embed_tokens", .kind = SlotKind::Embedding, .role = SlotRole::InputEmbedding, .out = 10, .in = 4},
             {.path = "model.layers.0.mlp.up_proj", .out = 8, .in = 4},
             {.path = "model.layers.0.mlp.down_proj", .out = 4, .in = 8},
             {.path = "lm_head", .role = SlotRole::OutputHead, .out = 10, .in = 4}};
  return b;
}

std::vector<PlacementUnit> units_of(std::vector<int64_t> mib, int tied = -1) {
  std::vector<PlacementUnit> units;
  for (size_t i = 0; i < mib.size(); ++i) units.push_back({"unit." + std::to_string(i), mib[i] * kMiB, -1});
  units.back().tied_to = tied;
  return units;
}

std::vector<std::string> placed(const std::vector<PlacementUnit>& units, const Value& map, std::vector<DeviceBudget> devices,
                                int64_t reserve = 0) {
  return place(units, map, devices, reserve).device;
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("modules match by whole components of their path") {
  CHECK(module_matches("model.layers.0.mlp.up_proj", "up_proj"));
  CHECK(module_matches("model.layers.0.mlp.up_proj", "model.layers.0"));
  CHECK_FALSE(module_matches("model.layers.10.mlp.up_proj", "model.layers.1"));
  CHECK_FALSE(module_matches("model.layers.0.mlp.up_proj", "proj"));
}

TEST_CASE("skip_modules adds to the default rule, embeddings = true lifts it") {
  const Blueprint b = small_blueprint();
  std::vector<ActiveQuantizer> q{{.section = {.type = "fake"}, .quantizer = std::make_shared<FakeQuantizer>()}};
  auto quantized = [&] {
    Names paths;
    for (const auto& slot : b.slots)
      if (choose_filler(slot, b, q).quantizer) paths.push_back(slot.path);
    return paths;
  };
  CHECK((quantized() == Names{"model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"}));
  q[0].section.skip_modules = Names{"down_proj"};
  CHECK((quantized() == Names{"model.layers.0.mlp.up_proj"}));  // the head stays dense: no trap
  q[0].section.skip_modules.reset();
  q[0].section.embeddings = true;
  CHECK((quantized() == Names{"model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj", "lm_head"}));
  CHECK(choose_filler(b.slots[0], b, q).reason.find("embeddings") != std::string::npos);  // the quantizer itself declines
}

TEST_CASE("the first quantizer whose modules match takes a slot") {
  const Blueprint b = small_blueprint();
  std::vector<ActiveQuantizer> q{{.section = {.type = "first", .modules = {"up_proj"}}, .quantizer = std::make_shared<FakeQuantizer>()},
                                 {.section = {.type = "second"}, .quantizer = std::make_shared<FakeQuantizer>()}};
  CHECK(choose_filler(b.slots[1], b, q).quantizer == &q[0]);
  CHECK(choose_filler(b.slots[2], b, q).quantizer == &q[1]);
  q.pop_back();
  CHECK(choose_filler(b.slots[2], b, q).quantizer == nullptr);
}

TEST_CASE("placement: one device, sequential, balanced, auto") {
  const auto units = units_of({10, 20, 20, 20, 20, 10});
  CHECK((placed(units, "cpu", {{"cpu", 200 * kMiB}}) == Names(6, "cpu")));
  const std::vector<DeviceBudget> two{{"cuda:0", 60 * kMiB}, {"cuda:1", 60 * kMiB}, {"cpu", 200 * kMiB}};
  CHECK((placed(units, "sequential", two) == Names{"cuda:0", "cuda:0", "cuda:0", "cuda:1", "cuda:1", "cuda:1"}));
  CHECK((placed(units, "balanced", two) == Names{"cuda:0", "cuda:0", "cuda:0", "cuda:1", "cuda:1", "cuda:1"}));
  // With room to spare, auto leaves the second device alone and balanced does not.
  const std::vector<DeviceBudget> wide{{"cuda:0", 200 * kMiB}, {"cuda:1", 200 * kMiB}, {"cpu", 200 * kMiB}};
  CHECK((placed(units, "auto", wide) == Names(6, "cuda:0")));
  CHECK(placed(units, "balanced", wide).back() == "cuda:1");
  // What the CUDA devices cannot hold goes to the host.
  CHECK(placed(units_of({10, 40, 40, 40, 40, 10}), "auto", two).back() == "cpu");
}

TEST_CASE("tied units share a device, and a map that parts them is refused") {
  const auto units = units_of({10, 20, 20, 5}, 0);
  const std::vector<DeviceBudget> two{{"cuda:0", 32 * kMiB}, {"cuda:1", 60 * kMiB}, {"cpu", 200 * kMiB}};
  CHECK((placed(units, "sequential", two) == Names{"cuda:0", "cuda:0", "cuda:1", "cuda:0"}));
  const Value parted(Value::Table{{"", "cuda:0"}, {"unit.3", "cuda:1"}});
  CHECK_THROWS_WITH(placed(units, parted, two), doctest::Contains("shares"));
}

TEST_CASE("a device_map table: longest prefix wins, gaps and strangers are errors") {
  const auto units = units_of({1, 1, 1});
  const std::vector<DeviceBudget> devices{{"cuda:0", 10 * kMiB}, {"cpu", 10 * kMiB}};
  CHECK((placed(units, Value(Value::Table{{"", "cpu"}, {"unit.1", "cuda:0"}}), devices) == Names{"cpu", "cuda:0", "cpu"}));
  CHECK_THROWS_WITH(placed(units, Value(Value::Table{{"unit.1", "cuda:0"}}), devices), doctest::Contains("says nothing about 'unit.0'"));
  CHECK_THROWS_WITH(placed(units, Value(Value::Table{{"", "cpu"}, {"layers", "cuda:0"}}), devices),
                    doctest::Contains("no module of this model"));
  CHECK_THROWS_WITH(placed(units, Value(Value::Table{{"", "cpu"}, {"unit.1.attention", "cuda:0"}}), devices),
                    doctest::Contains("a part of a block"));
  CHECK_THROWS_WITH(placed(units, "cuda:3", devices), doctest::Contains("offers cuda:0, cpu"));
}

TEST_CASE("what does not fit says by how much") {
  const Placement p = place(units_of({50, 60}), "cpu", {{"cpu", 100 * kMiB}}, 0);
  CHECK_FALSE(p.fits);
  CHECK(p.advice.find("10.0 MiB too little") != std::string::npos);
  CHECK(place(units_of({50, 50}), "cpu", {{"cpu", 100 * kMiB}}, 0).fits);
  CHECK_FALSE(place(units_of({50, 50}), "cpu", {{"cpu", 100 * kMiB}}, 1).fits);  // the reserve counts once
}

TEST_CASE("devices are read as the command line writes them") {
  const auto devices = parse_devices("cuda:0=24GiB,cpu=64GB");
  REQUIRE(devices.size() == 2);
  CHECK(devices[0].bytes == int64_t{24} << 30);
  CHECK(devices[1].bytes == 64000000000);
  for (const char* bad : {"", "cuda:0", "gpu=1GiB", "cuda:x=1GiB", "cpu=lots", "cpu=1GiB,cpu=2GiB"})
    CHECK_THROWS_AS(parse_devices(bad), Error);
}

TEST_CASE("the dtype policy: float32 stays float32, training keeps norms and hidden state in float32") {
  const auto plain = resolve_dtypes(at::kBFloat16, Purpose::Inference);
  CHECK((plain.precision.compute == at::kBFloat16 && plain.precision.residual == at::kBFloat16 && plain.norms == at::kBFloat16 &&
         plain.notes.empty()));
  const auto adapters = resolve_dtypes(at::kBFloat16, Purpose::AdapterTraining);
  CHECK((adapters.precision.compute == at::kBFloat16 && adapters.precision.residual == at::kFloat && adapters.norms == at::kFloat &&
         adapters.weights == at::kBFloat16));
  const auto full = resolve_dtypes(at::kBFloat16, Purpose::FullTraining);
  CHECK((full.weights == at::kFloat && full.precision.compute == at::kBFloat16 && !full.notes.empty()));
  CHECK(resolve_dtypes(at::kFloat, Purpose::FullTraining).notes.empty());
}

TEST_CASE("dtype auto follows the config in both spellings, then the weights") {
  auto config = [](const char* key, const char* value) { return Value(Value::Table{{key, value}}); };
  CHECK((resolve_model_dtype("auto", config("torch_dtype", "bfloat16"), at::kFloat) == at::kBFloat16));
  CHECK((resolve_model_dtype("auto", config("dtype", "torch.float16"), at::kFloat) == at::kHalf));
  CHECK((resolve_model_dtype("auto", Value::table(), at::kBFloat16) == at::kBFloat16));
  CHECK((resolve_model_dtype("float32", config("dtype", "bfloat16"), at::kBFloat16) == at::kFloat));
  CHECK_THROWS_AS(resolve_model_dtype("auto", config("dtype", "int4"), at::kFloat), Error);
}

TEST_CASE("random weights follow from seed and path alone") {
  const SlotSpec a{.path = "a", .out = 16, .in = 8}, b{.path = "b", .out = 16, .in = 8};
  CHECK(at::equal(initial_weight(a, at::kFloat, 0.02, 1), initial_weight(a, at::kFloat, 0.02, 1)));
  CHECK_FALSE(at::equal(initial_weight(a, at::kFloat, 0.02, 1), initial_weight(b, at::kFloat, 0.02, 1)));
  CHECK_FALSE(at::equal(initial_weight(a, at::kFloat, 0.02, 1), initial_weight(a, at::kFloat, 0.02, 2)));
}

TEST_CASE("a quantizer's modules go to devices on which it multiplies") {
  Blueprint b = small_blueprint();
  for (auto& slot : b.slots)
    if (slot.role == SlotRole::Inner) slot.stack = 0, slot.block = 0;
  b.stacks = {{"model.layers", 1}};
  const auto quantizer = std::make_shared<FakeQuantizer>();
  const std::vector<ActiveQuantizer> quantizers{{.section = {.type = "fake"}, .quantizer = quantizer}};
  Recipe recipe;
  const DtypePolicy dtypes = resolve_dtypes(at::kFloat, Purpose::Inference);
  const auto plan = [&](Value map, std::vector<std::string> devices) {
    recipe.model.device_map = std::move(map);
    quantizer->devices = std::move(devices);
    const std::vector<LoadedAdapter> none;
    const std::set<std::string> nothing_frozen;
    return make_ledger({.recipe = recipe,
                        .blueprint = b,
                        .quantizers = quantizers,
                        .adapters = none,
                        .dtypes = dtypes,
                        .frozen = nothing_frozen,
                        .devices = {{"cuda:0", 1000 * kMiB}, {"cpu", 1000 * kMiB}}})
        .plan;
  };
  for (const char* map : {"auto", "balanced", "sequential"}) {
    for (const auto& module : plan(map, {"cpu", "cuda"}).modules) CHECK(module.device == "cuda:0");
    for (const auto& module : plan(map, {"cpu"}).modules) {
      CHECK(module.device == "cpu");
      CHECK(module.reason.find("quantizer fake does not multiply on cuda") != std::string::npos);
    }
  }
  // Named: only where there is something to multiply.
  CHECK_THROWS_WITH(plan("cuda:0", {"cpu"}),
                    doctest::Contains("model.layers.0.mlp.up_proj on cuda:0, quantizer fake multiplies on cpu alone"));
  CHECK(plan("cuda:0", {"cpu", "cuda"}).devices.front().weights > 0);
  CHECK(plan(Value(Value::Table{{"", "cuda:0"}, {"model.layers.0", "cpu"}}), {"cpu"}).modules.front().device == "cuda:0");
}
