#include "export/export.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/round.h>

#include "base/json.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/test_files.h"
#include "export/export_folder.h"
#include "export/peft.h"
#include "model/dense_filler.h"
#include "model/parts.h"
#include "model/quantized_filler.h"

#include <doctest/doctest.h>

using namespace tenon;
using namespace tenon::host;
using namespace tenon::host::test;

namespace {

// A quantizer of whole numbers: packs a weight as int8 multiples of 1/8.
class EighthQuantizer final : public Quantizer {
 public:
  std::string format() const override { return "eighth/1"; }
  QuantizerFacts facts() const override { return {.bits_per_weight = 8}; }
  std::vector<TensorSpec> resident(const SlotSpec& slot) const override { return {{"weight", {slot.out, slot.in}, at::kChar}}; }
  Tensors quantize(const SlotSpec&, const at::Tensor& weight, const Observer*) const override {
    return {at::round(weight.mul(8)).to(at::kChar)};
  }
  using Quantizer::dequantize;
  at::Tensor dequantize(const SlotSpec&, const Tensors& tensors, at::ScalarType dtype, int64_t first, int64_t last) const override {
    return tensors[0].narrow(0, first, last - first).to(at::kFloat).div(8).to(dtype);
  }
  std::vector<NamedTensor> pack(const SlotSpec& slot, const Tensors& tensors) const override {
    return {{slot.path + ".weight", tensors[0]}, {slot.path + ".weight.unit", at::full({}, 0.125)}};
  }
  Value quantization_config(const std::vector<std::string>& skipped, at::ScalarType) const override {
    Value config = Value::table();
    config.set("quant_method", "eighth");
    config.set("skip", Value(skipped));
    return config;
  }
};

// Adds `shift` to every weight of its targets while enabled.
class ShiftAdapter final : public Adapter {
 public:
  ShiftAdapter(std::vector<std::string> targets, float shift) : targets_(std::move(targets)), shift_(at::full({1}, shift)) {}
  std::vector<std::string> targets(const Blueprint&) const override { return targets_; }
  std::vector<TensorSpec> parameters(const SlotSpec&) const override { return {{"shift", {1}, at::kFloat}}; }
  std::shared_ptr<Filler> wrap(const SlotSpec&, std::shared_ptr<Filler> base, at::Device, bool) override {
    return std::make_shared<Shifted>(std::move(base), *this);
  }
  std::vector<AdapterParameter> state() const override { return {{"base_model.model.shift", shift_}}; }
  void set_enabled(bool enabled) override { enabled_ = enabled; }
  void set_training(bool) override {}
  Value config(const std::string& base_model) const override {
    Value config = Value::table();
    config.set("base_model_name_or_path", base_model);
    config.set("task_type", "CAUSAL_LM");
    return config;
  }
  void configure(const Value&) override {}
  void load(const TensorSource&) override {}
  at::Tensor merge(const SlotSpec&, const at::Tensor& weight) const override { return weight.add(shift_); }
  bool enabled() const { return enabled_; }

 private:
  struct Shifted final : Filler {
    Shifted(std::shared_ptr<Filler> b, const ShiftAdapter& o) : base(std::move(b)), owner(o) {}
    std::string describe() const override { return "shifted"; }
    at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const override {
      at::Tensor rows = base->dense_rows(dtype, first, last);
      return owner.enabled_ ? rows.add(owner.shift_.to(dtype)) : rows;
    }
    at::Tensor bias() const override { return base->bias(); }
    std::shared_ptr<Filler> base;
    const ShiftAdapter& owner;
  };
  std::vector<std::string> targets_;
  at::Tensor shift_;
  bool enabled_ = true;
};

SlotSpec slot_of(const std::string& path, int64_t out, int64_t in, const std::string& file = {}, int64_t start = 0, int64_t length = -1) {
  SlotSpec slot;
  slot.path = path, slot.out = out, slot.in = in;
  slot.sources = {Source{{{file.empty() ? path + ".weight" : file, start, length}}}};
  return slot;
}

// Embedding, one block with two slots cut from one file tensor, one quantizable slot with a bias and a norm; a tied head.
Blueprint blueprint() {
  Blueprint b;
  b.slots = {slot_of("embed", 12, 8), slot_of("layers.0.q", 4, 8, "layers.0.qk.weight", 0, 4),
             slot_of("layers.0.k", 2, 8, "layers.0.qk.weight", 4, 2), slot_of("layers.0.up", 6, 8), slot_of("head", 12, 8)};
  b.slots[0].kind = SlotKind::Embedding, b.slots[0].role = SlotRole::InputEmbedding;
  b.slots[3].bias = true, b.slots[3].bias_sources = {Source::rename("layers.0.up.bias")};
  for (int i = 1; i < 4; ++i) b.slots[static_cast<size_t>(i)].stack = 0, b.slots[static_cast<size_t>(i)].block = 0;
  b.slots[4].role = SlotRole::OutputHead, b.slots[4].tied_to = "embed", b.slots[4].sources.clear();
  DenseSpec norm;
  norm.path = "layers.0.norm.weight", norm.shape = {8}, norm.stack = 0, norm.block = 0, norm.sources = {Source::rename(norm.path)};
  b.tensors = {norm};
  return b;
}

struct Fixture {
  TempDir folder;
  LoadedModel model;
  std::map<std::string, at::Tensor> weights;
  std::shared_ptr<const Quantizer> quantizer = std::make_shared<EighthQuantizer>();
  ShiftAdapter* adapter = nullptr;

  explicit Fixture(at::ScalarType dtype = at::kFloat, bool quantize_up = false) {
    put(folder / "base/config.json", "{}");
    put(folder / "base/tokenizer.json", "{\"tokens\": []}");
    put(folder / "base/generation_config.json", "{\"eos_token_id\": 2}");
    put(folder / "base/pytorch_stuff.txt", "not copied");
    model.checkpoint = Checkpoint::open(folder / "base");
    model.config = parse_json(
        R"({"architectures": ["X"], "torch_dtype": "float64", "tie_word_embeddings": true, "quantization_config": {"old": 1}})", "test");
    model.precision.compute = dtype;
    auto parts = std::make_shared<ModelParts>(blueprint(), model.precision, ModelParts::Devices{{{at::Device(at::kCPU)}}});
    for (const auto& slot : parts->slots()) {
      const SlotSpec& spec = slot->spec();
      PlannedModule planned;
      planned.path = spec.path;
      if (!spec.tied_to.empty()) {
        slot->fill(parts->slot(spec.tied_to).filler_ptr());
      } else {
        at::Tensor weight = at::round(at::randn({spec.out, spec.in}).mul(8)).div(8);  // exact in every dtype used here
        weights[spec.path] = weight;
        const at::Tensor bias = spec.bias ? at::arange(spec.out, at::kFloat) : at::Tensor();
        if (quantize_up && spec.path == "layers.0.up") {
          planned.filler = "eighth", planned.quantizer = quantizer.get();
          slot->fill(std::make_shared<QuantizedFiller>(spec, "eighth", quantizer, quantizer->quantize(spec, weight, nullptr), bias));
        } else {
          slot->fill(std::make_shared<DenseFiller>(weight.to(dtype), bias));
        }
      }
      model.plan.modules.push_back(planned);
    }
    parts->dense("layers.0.norm.weight").value = at::full({8}, 1.5f);
    model.parts = parts;
  }

  void adapt(std::vector<std::string> targets, float shift) {
    auto made = std::make_unique<ShiftAdapter>(targets, shift);
    adapter = made.get();
    model.adapters.push_back({"default", "shift", std::move(made)});
    for (const auto& path : targets) {
      Slot& slot = model.parts->slot(path);
      slot.fill(adapter->wrap(slot.spec(), slot.filler_ptr(), at::kCPU, false));
    }
  }

  ExportOptions options(const std::string& format) const {
    return {.format = format, .to = folder / "out", .base_model = "base", .quantizers_of_format = {"eighth"}};
  }
};

}  // namespace

TEST_CASE("a model goes back into the file tensors that its sources name") {
  Fixture f(at::kBFloat16, true);
  const ExportReport report = export_model(f.model, f.options("hf"));
  CHECK(report.folder.filename() == "out");
  const auto written = Checkpoint::open(f.folder / "out");
  CHECK(written->names() ==
        std::vector<std::string>{"embed.weight", "layers.0.norm.weight", "layers.0.qk.weight", "layers.0.up.bias", "layers.0.up.weight"});
  for (const auto& name : written->names()) CHECK((written->spec(name).dtype == at::kBFloat16));
  CHECK(written->spec("layers.0.qk.weight").shape == std::vector<int64_t>{6, 8});
  const at::Tensor qk = written->read("layers.0.qk.weight").to(at::kFloat);
  CHECK(qk.narrow(0, 0, 4).equal(f.weights["layers.0.q"]));
  CHECK(qk.narrow(0, 4, 2).equal(f.weights["layers.0.k"]));
  CHECK(written->read("layers.0.up.weight").to(at::kFloat).equal(f.weights["layers.0.up"]));
  CHECK(written->read("layers.0.up.bias").to(at::kFloat).equal(at::arange(6, at::kFloat)));
  CHECK(written->config().at("torch_dtype").as_string() == "bfloat16");
  CHECK(written->config().find("quantization_config") == nullptr);
  CHECK(written->config().at("tie_word_embeddings").as_bool());
  CHECK(written->generation_config().at("eos_token_id").as_int() == 2);
  CHECK(get(f.folder / "out/tokenizer.json") == get(f.folder / "base/tokenizer.json"));
  CHECK_FALSE(std::filesystem::exists(f.folder / "out/pytorch_stuff.txt"));
  CHECK(report.bytes == static_cast<int64_t>(written->total_bytes()));
  CHECK(report.files.back() == kExportRecord);
}

TEST_CASE("a model with adapters is written merged, or not as a whole model") {
  Fixture f;
  f.adapt({"layers.0.q", "layers.0.up"}, 0.25f);
  CHECK(contains(error_of([&] { export_model(f.model, f.options("hf")); }),
                 "3 format 'hf' writes a whole model, but the model has the adapter 'default'"));
  CHECK_FALSE(std::filesystem::exists(f.folder / "out"));
  ExportOptions options = f.options("hf");
  options.merge = true;
  export_model(f.model, options);
  const auto written = Checkpoint::open(f.folder / "out");
  const at::Tensor qk = written->read("layers.0.qk.weight");
  // Merged once, not twice: the adapter is off while its base is read.
  CHECK(qk.narrow(0, 0, 4).equal(f.weights["layers.0.q"].add(at::full({1}, 0.25f))));
  CHECK(qk.narrow(0, 4, 2).equal(f.weights["layers.0.k"]));
  CHECK(written->read("layers.0.up.weight").equal(f.weights["layers.0.up"].add(at::full({1}, 0.25f))));
  CHECK(f.adapter->enabled());
}

TEST_CASE("tied weights that a merge parts are both written") {
  Fixture f;
  f.adapt({"embed"}, 0.5f);
  ExportOptions options = f.options("hf");
  options.merge = true;
  const ExportReport report = export_model(f.model, options);
  const auto written = Checkpoint::open(f.folder / "out");
  CHECK(written->read("embed.weight").equal(f.weights["embed"].add(at::full({1}, 0.5f))));
  CHECK(written->read("head.weight").equal(f.weights["embed"]));
  CHECK_FALSE(written->config().at("tie_word_embeddings").as_bool());
  CHECK(report.notes.size() == 1);
}

TEST_CASE("quantized weights are packed by their quantizer") {
  Fixture f(at::kFloat, true);
  export_model(f.model, f.options("eighth_file"));
  const auto written = Checkpoint::open(f.folder / "out");
  CHECK((written->spec("layers.0.up.weight").dtype == at::kChar));
  CHECK(written->read("layers.0.up.weight").to(at::kFloat).div(8).equal(f.weights["layers.0.up"]));
  CHECK(written->has("layers.0.up.weight.unit"));
  CHECK(written->has("layers.0.up.bias"));
  CHECK(written->has("layers.0.qk.weight"));
  const Value& config = written->config().at("quantization_config");
  CHECK(config.at("quant_method").as_string() == "eighth");
  CHECK(config.at("skip") == Value(std::vector<std::string>{"layers.0.q", "layers.0.k", "head"}));

  f.adapt({"layers.0.up"}, 0.25f);
  ExportOptions options = f.options("eighth_file");
  options.merge = true;
  CHECK(export_model(f.model, options).notes.size() == 1);
  CHECK(Checkpoint::open(f.folder / "out")
            ->read("layers.0.up.weight")
            .to(at::kFloat)
            .div(8)
            .equal(f.weights["layers.0.up"].add(at::full({1}, 0.25f))));
}

TEST_CASE("a quantizer's format that does not fit the model is refused") {
  Fixture dense;
  CHECK(contains(error_of([&] { export_model(dense.model, dense.options("eighth_file")); }), "no weight of this model is quantized"));
  Fixture f(at::kFloat, true);
  ExportOptions options = f.options("other_file");
  options.quantizers_of_format = {"ninth"};
  CHECK(contains(error_of([&] { export_model(f.model, options); }), "holds weights of ninth, but this model has some of eighth"));
  options.quantizers_of_format.clear();
  CHECK(contains(error_of([&] { export_model(f.model, options); }), "no export format 'other_file'"));
  CHECK_FALSE(std::filesystem::exists(f.folder / "out"));
}

TEST_CASE("adapters are written as folders that name their base") {
  Fixture f;
  CHECK(contains(error_of([&] { export_model(f.model, f.options("peft")); }), "the recipe has none"));
  f.adapt({"layers.0.up"}, 0.25f);
  export_model(f.model, f.options(""));
  CHECK(read_json_file(f.folder / "out/adapter_config.json").at("base_model_name_or_path").as_string() == "base");
  const SafetensorsFile file(f.folder / "out/adapter_model.safetensors");
  CHECK(file.header().metadata.at("format") == "pt");
  CHECK(file.read("base_model.model.shift").item<float>() == 0.25f);
  const std::string card = get(f.folder / "out/README.md");
  CHECK(card.starts_with("---\nbase_model: \"base\"\nlibrary_name: peft\npipeline_tag: text-generation\n"));

  f.model.adapters.push_back({"second", "shift", std::make_unique<ShiftAdapter>(std::vector<std::string>{}, 1.0f)});
  export_model(f.model, f.options("peft"));
  CHECK(std::filesystem::exists(f.folder / "out/adapter_config.json"));
  CHECK(std::filesystem::exists(f.folder / "out/second/adapter_model.safetensors"));
  f.model.adapters[1].name = "../up";
  CHECK(contains(error_of([&] { export_model(f.model, f.options("peft")); }), "cannot be a folder's name"));
  // The earlier export is still whole.
  CHECK(std::filesystem::exists(f.folder / "out/second/adapter_model.safetensors"));
}

TEST_CASE("an export folder is complete or absent, and replaces only exports") {
  TempDir folder;
  const auto entries = [&] { return std::distance(std::filesystem::directory_iterator(folder.path()), {}); };
  { ExportFolder dropped(folder / "out"), nested(folder / "a/b/out"); }
  CHECK(entries() == 1);  // a/b, without out
  for (const char* text : {"first", "second"}) {
    ExportFolder out(folder / "out/");
    put(out.path() / "x/file", text);
    CHECK(out.commit(Value::table()) == std::vector<std::string>{"x/file", kExportRecord});
    CHECK(get(folder / "out/x/file") == text);
    CHECK(entries() == 2);
  }
  put(folder / "out/mine.txt", "mine");
  CHECK(contains(error_of([&] { ExportFolder(folder / "out"); }), "holds 'mine.txt', which no export wrote"));
  CHECK(get(folder / "out/mine.txt") == "mine");
  CHECK(contains(error_of([&] { ExportFolder(folder / "out/mine.txt"); }), "is a file"));
  put(folder / "model/config.json", "{}");
  CHECK(contains(error_of([&] { ExportFolder(folder / "model", folder / "model"); }), "is the checkpoint that is being read"));
  CHECK(contains(error_of([&] { ExportFolder(folder / "model"); }), "holds 'config.json'"));
  std::filesystem::create_directories(folder / "empty");
  ExportFolder out(folder / "empty");
  put(out.path() / "file", "x");
  put(folder / "empty/late", "x");
  CHECK(contains(error_of([&] { out.commit(Value::table()); }), "got the file 'late' while the export ran"));
  CHECK(get(folder / "empty/late") == "x");
}
