#include "model/calibrate.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <doctest/doctest.h>

#include "base/log.h"
#include "model/calibration_data.h"
#include "model/random_init.h"
#include "support/temp_dir.h"

using namespace tenon;
using namespace tenon::host;

namespace {

constexpr int64_t kWidth = 4, kVocabulary = 11, kBlocks = 3, kSamples = 5, kLength = 3;

struct MeanObserver final : Observer {
  void observe(const at::Tensor& x) override { sum = sum + x.to(at::kDouble).sum().item<double>(), tokens += x.size(0); }
  double sum = 0;
  int64_t tokens = 0;
};

// Keeps weights as they are and adds a hundredth of the mean input: what was observed can be read off the result.
struct MeanQuantizer final : Quantizer {
  std::string format() const override { return "mean/1"; }
  QuantizerFacts facts() const override { return {.bits_per_weight = 32, .needs_calibration = true, .calibrates_by_stage = by_stage}; }
  std::vector<TensorSpec> resident(const SlotSpec& slot) const override { return {{"weight", {slot.out, slot.in}, at::kFloat}}; }
  Tensors quantize(const SlotSpec& slot, const at::Tensor& weight, const Observer* calibration) const override {
    if (slot.path == dies_at) throw std::runtime_error("killed");
    quantized.push_back(slot.path);
    const auto* mean = static_cast<const MeanObserver*>(calibration);
    return {mean ? weight + mean->sum / static_cast<double>(mean->tokens * slot.in) / 100 : weight.clone()};
  }
  at::Tensor dequantize(const SlotSpec&, const Tensors& tensors, at::ScalarType dtype, int64_t first, int64_t last) const override {
    return tensors[0].narrow(0, first, last - first).to(dtype);
  }
  std::unique_ptr<Observer> make_observer(const SlotSpec&) const override {
    ++observers;
    return std::make_unique<MeanObserver>();
  }
  bool by_stage = true;
  std::string dies_at;
  mutable std::vector<std::string> quantized;
  mutable int observers = 0;
};

Blueprint small_blueprint() {
  Blueprint b{.vocab_size = kVocabulary, .hidden_size = kWidth, .context_length = 64, .stacks = {{"layers", kBlocks}}};
  for (int64_t i = 0; i < kBlocks; ++i) {
    const std::string path = concat("layers.", i);
    auto add = [&](const char* name, const char* group, int stage) {
      b.slots.push_back({.path = concat(path, ".", name),
                         .out = kWidth,
                         .in = kWidth,
                         .stack = 0,
                         .block = i,
                         .input_group = *group ? concat(path, ".", group) : "",
                         .stage = stage});
    };
    add("first", "input", 0);
    add("second", "input", 0);
    add("last", "", 1);
    if (i == 1) add("unused", "", 1);  // what no token reaches, as an expert may be
  }
  return b;
}

// hidden + last(first(hidden) * second(hidden))
struct SmallModel final : Model {
  explicit SmallModel(ModelParts& p) : parts(p) {}
  const Blueprint& blueprint() const override { return parts.blueprint(); }
  Seams& seams() override { return seams_; }
  State begin(const Batch& batch, Cache*) override {
    State state;
    state.hidden = at::embedding(table, batch.ids);
    return state;
  }
  void run_block(int, int64_t i, State& state) override {
    auto slot = [&](const char* name) -> Slot& { return parts.slot(concat("layers.", i, ".", name)); };
    const auto products = linear_many({&slot("first"), &slot("second")}, state.hidden);
    state.hidden = state.hidden + slot("last").linear(products[0] * products[1]);
  }
  at::Tensor finish(State& state) override { return state.hidden; }
  at::Tensor logits(const at::Tensor& hidden) override { return hidden; }
  at::Tensor token_logprobs(const at::Tensor& hidden, const at::Tensor&) override { return hidden; }
  std::unique_ptr<Cache> make_cache(int64_t, int64_t) override { return nullptr; }

  ModelParts& parts;
  at::Tensor table = at::arange(kVocabulary * kWidth, at::kFloat).view({kVocabulary, kWidth}).sin();
  Seams seams_;
};

struct Fixture {
  tenon::testing::TempDir dir;
  std::vector<std::string> log;
  CalibrationSection section{.files = {}, .samples = kSamples, .length = kLength, .seed = 1};
  std::shared_ptr<MeanQuantizer> quantizer = std::make_shared<MeanQuantizer>();
  std::vector<ActiveQuantizer> active{{.section = {.type = "mean"}, .quantizer = quantizer}};
  std::vector<LoadedAdapter> adapters;
  std::unique_ptr<ModelParts> parts;

  Fixture() {
    set_log_sink([this](LogLevel, std::string_view line) { log.emplace_back(line); });
    section.files = {dir.write("ids.jsonl", "{\"input_ids\": [1, 2, 3, 4, 5]}\n{\"input_ids\": [10, 9, 8, 7, 6, 0, 3]}\n")};
  }
  ~Fixture() { set_log_sink(nullptr); }

  CalibrationReport run(const char* folder = "", const char* recipe = "a") {
    const Blueprint blueprint = small_blueprint();
    Plan plan;
    for (const auto& slot : blueprint.slots)
      plan.modules.push_back({.path = slot.path, .filler = "mean", .device = "cpu", .dtype = "float32", .quantizer = quantizer.get()});
    ModelParts::Devices devices;
    devices.blocks = {std::vector<at::Device>(kBlocks, at::kCPU)};
    parts = std::make_unique<ModelParts>(blueprint, Precision{}, devices);
    SmallModel model(*parts);
    const FillRequest fill{.parts = *parts,
                           .plan = plan,
                           .checkpoint = nullptr,
                           .quantizers = active,
                           .adapters = adapters,
                           .random = true,
                           .initializer_range = 0.5,
                           .seed = 7};
    const auto slots = calibrated_slots(blueprint, plan, active);
    CHECK(slots.size() == blueprint.slots.size());
    return calibrate({.fill = fill,
                      .model = model,
                      .section = section,
                      .slots = slots,
                      .folder = *folder ? dir.path() / folder : std::filesystem::path(),
                      .recipe = Value(recipe)});
  }
  at::Tensor weight(const std::string& path) const { return parts->slot(path).filler().dense_rows(at::kFloat, 0, kWidth).clone(); }
  std::map<std::string, at::Tensor> weights() const {
    std::map<std::string, at::Tensor> all;
    for (const auto& slot : parts->slots()) all[slot->spec().path] = weight(slot->spec().path);
    return all;
  }
  bool said(const std::string& text) const {
    for (const auto& line : log)
      if (line.find(text) != std::string::npos) return true;
    return false;
  }
};

bool same(const std::map<std::string, at::Tensor>& a, const std::map<std::string, at::Tensor>& b) {
  bool equal = a.size() == b.size();
  for (const auto& [path, tensor] : a) equal = equal && at::equal(tensor, b.at(path));
  return equal;
}

}  // namespace

TEST_CASE_FIXTURE(Fixture, "each stage is observed behind the stages and blocks before it, already quantized") {
  const CalibrationReport report = run();
  CHECK(report.tokens == kSamples * kLength);
  CHECK(quantizer->observers == 3 * 2 + 1);  // inputs that are read twice are observed once

  // The same by hand, from the weights as they were.
  quantizer->dies_at = "nothing";
  SmallModel model(*parts);
  std::vector<at::Tensor> hidden;
  const at::Tensor windows = calibration_windows(section, kLength, kVocabulary, nullptr);
  at::Tensor h = at::embedding(model.table, windows);
  for (int64_t i = 0; i < kBlocks; ++i) {
    const std::string path = concat("layers.", i, ".");
    auto expected = [&](const char* name, const at::Tensor& input) {
      const SlotSpec& spec = parts->slot(path + name).spec();
      return initial_weight(spec, at::kFloat, 0.5, 7) + input.to(at::kDouble).mean().item<double>() / 100;
    };
    // Sums in batches, in another order: float32 rounding of numbers near one.
    auto close = [&](const char* name, const at::Tensor& input) {
      return (weight(path + name) - expected(name, input)).abs().max().item<float>() < 1e-6f;
    };
    CHECK(close("first", h));
    CHECK(close("second", h));
    const at::Tensor product = at::matmul(h, weight(path + "first").t()) * at::matmul(h, weight(path + "second").t());
    CHECK(close("last", product));
    h = h + at::matmul(product, weight(path + "last").t());
  }

  // Nothing of the calibration stays behind: other inputs give other outputs.
  State state = model.begin({.ids = at::arange(kVocabulary, at::kLong).view({1, kVocabulary})}, nullptr);
  at::Tensor expected = state.hidden;
  for (int64_t i = 0; i < kBlocks; ++i) {
    model.run_block(0, i, state);
    auto w = [&](const char* name) { return weight(concat("layers.", i, ".", name)).t(); };
    expected = expected + at::matmul(at::matmul(expected, w("first")) * at::matmul(expected, w("second")), w("last"));
  }
  CHECK((state.hidden - expected).abs().max().item<float>() < 1e-5f * expected.abs().max().item<float>());  // sums of 4 products
}

TEST_CASE_FIXTURE(Fixture, "without stages a whole block is observed before any of it is quantized") {
  quantizer->by_stage = false;
  run();
  SmallModel model(*parts);
  const at::Tensor h = at::embedding(model.table, calibration_windows(section, kLength, kVocabulary, nullptr));
  auto dense = [&](const char* name) { return initial_weight(parts->slot(name).spec(), at::kFloat, 0.5, 7); };
  const at::Tensor product = at::matmul(h, dense("layers.0.first").t()) * at::matmul(h, dense("layers.0.second").t());
  CHECK((weight("layers.0.last") - dense("layers.0.last") - product.mean().item<float>() / 100).abs().max().item<float>() < 1e-6f);
}

TEST_CASE_FIXTURE(Fixture, "a module that no token reaches is rounded without calibration, counted and named") {
  const CalibrationReport report = run();
  for (const auto& module : report.modules) {
    CAPTURE(module.path);
    CHECK(module.rounded == (module.path == "layers.1.unused"));
    CHECK(module.tokens == (module.rounded ? 0 : kSamples * kLength));
  }
  CHECK(at::equal(weight("layers.1.unused"), initial_weight(parts->slot("layers.1.unused").spec(), at::kFloat, 0.5, 7)));
  CHECK(said("rounded to nearest, with the tokens that each saw: layers.1.unused (0)"));
}

TEST_CASE_FIXTURE(Fixture, "a run that was killed goes on behind the last finished block, to the same bytes") {
  run();
  const auto uninterrupted = weights();
  quantizer->dies_at = "layers.2.second";
  CHECK_THROWS_WITH(run("kept"), doctest::Contains("killed"));
  quantizer->dies_at = "";
  quantizer->quantized.clear();
  const CalibrationReport report = run("kept");
  CHECK(report.blocks_kept == 2);
  CHECK((quantizer->quantized == std::vector<std::string>{"layers.2.first", "layers.2.second", "layers.2.last"}));
  CHECK(same(weights(), uninterrupted));
}

TEST_CASE_FIXTURE(Fixture, "blocks that were made from something else, or are damaged, are not taken over") {
  run("kept");
  CHECK(run("kept").blocks_kept == kBlocks);
  CHECK(run("kept", "another recipe").blocks_kept == 0);
  CHECK(run("kept").blocks_kept == 0);  // the last run's blocks lie there now
  section.seed = 2;
  CHECK(run("kept").blocks_kept == 0);
  section.seed = 1;
  run("kept");
  const auto before = weights();
  std::filesystem::resize_file(dir.path() / "kept" / "layers.1.safetensors", 100);
  log.clear();
  CHECK(run("kept").blocks_kept == kBlocks - 1);
  CHECK(said("layers.1.safetensors is not used"));
  CHECK(same(weights(), before));
}
