#include "mllama.h"

#include <algorithm>

#include "mllama_model.h"
#include "mllama_processor.h"
#include "mllama_tower.h"
#include "tenon/backbone.h"

namespace tenon::vlm {

namespace {

const Prefixes kTowerFiles = {"vision_model.", "model.vision_model."};
const char* const kProjectorFiles[] = {"multi_modal_projector", "model.multi_modal_projector"};
constexpr const char* kText = "model.language_model.";

// A layer that looks at pictures has a llama's weights but for the name of its attention.
PrefixRules text_rules(const MllamaConfig& config, const std::string& model) {
  PrefixRules rules;
  for (int64_t i = 0; i < config.layers(); ++i)
    if (config.looks[static_cast<size_t>(i)])
      rules.rules.push_back({concat("model.layers.", i, ".self_attn."), concat(model, "layers.", i, ".cross_attn.")});
  rules.rules.push_back({"model.", model});
  return rules;
}

// As transformers 5 calls the modules. Files keep the names of transformers 4, or have these.
BackboneNames text_names(const MllamaConfig& config) {
  PrefixRules old = text_rules(config, "language_model.model.");
  old.rules.push_back({"", "language_model."});
  return {.path = text_rules(config, kText), .files = {std::move(old), text_rules(config, kText)}};
}

void add_projector(Blueprint& blueprint, const MllamaConfig& config) {
  SlotSpec slot;
  slot.path = kMllamaProjectorPath;
  slot.out = config.text_hidden, slot.in = config.vision.out, slot.bias = true;
  slot.part = "projector";
  // It runs where the tower ends.
  slot.stack = kMllamaGlobal, slot.block = config.vision.global_layers - 1;
  for (const std::string file : kProjectorFiles) {
    slot.sources.push_back(Source::rename(file + ".weight"));
    slot.bias_sources.push_back(Source::rename(file + ".bias"));
  }
  blueprint.slots.push_back(std::move(slot));
}

// What a llama's layer lacks for looking at pictures.
void add_cross_parts(Blueprint& b, const MllamaConfig& c) {
  const BackboneNames names = text_names(c);
  const auto add = [&](int64_t layer, const std::string& name, int64_t width, DenseKind kind) {
    DenseSpec tensor;
    tensor.path = names.path(concat("model.layers.", layer, ".", name));
    tensor.kind = kind, tensor.shape = {width};
    tensor.stack = kMllamaText, tensor.block = layer;
    for (const PrefixRules& layout : names.files)
      tensor.sources.push_back(Source::rename(layout(concat("model.layers.", layer, ".", name))));
    b.tensors.push_back(std::move(tensor));
  };
  for (int64_t i = 0; i < c.layers(); ++i) {
    if (!c.looks[static_cast<size_t>(i)]) continue;
    add(i, "self_attn.q_norm.weight", c.head_dim(), DenseKind::Norm), add(i, "self_attn.k_norm.weight", c.head_dim(), DenseKind::Norm);
    add(i, "cross_attn_attn_gate", 1, DenseKind::Other), add(i, "cross_attn_mlp_gate", 1, DenseKind::Other);
  }
}

void adjust_text(Blueprint& b, const MllamaConfig& c) {
  for (SlotSpec& slot : b.slots) {
    if (slot.role == SlotRole::InputEmbedding) slot.out = c.vocab + kExtraRows;
    const bool looks = slot.stack == kMllamaText && c.looks[static_cast<size_t>(slot.block)];
    // Queries read the text, keys and values a picture.
    if (looks && slot.path.ends_with(".cross_attn.q_proj")) slot.input_group.clear();
  }
  const auto looking = static_cast<double>(std::count(c.looks.begin(), c.looks.end(), true));
  b.cache_elements_per_token *= 1 - looking / static_cast<double>(c.layers());
}

}  // namespace

std::unique_ptr<Architecture> MllamaArchitecture::text_architecture() const {
  if (!backbones_) fail(ErrorCode::Internal, "use() was not called, so there is no text model to ask for");
  return with_context("text_config", [&] { return backbones_->make("llama"); });
}

Blueprint MllamaArchitecture::blueprint(const Value& config) const {
  const MllamaConfig c = read_mllama_config(config);
  const auto architecture = text_architecture();
  const Blueprint text = with_context("text_config", [&] { return architecture->blueprint(c.text); });
  Blueprint b;
  b.model_type = "mllama";
  add_mllama_tower(b, c.vision, kMllamaTowerPath, kTowerFiles);
  add_projector(b, c);
  add_backbone(b, text, text_names(c));
  add_cross_parts(b, c);
  adjust_text(b, c);
  b.seams.push_back("projector");
  b.ignorable = {R"((?:model\.)?(?:language_model\.)?(?:model\.)?rotary_emb\.inv_freq)"};
  return b;
}

std::unique_ptr<Model> MllamaArchitecture::build(const Value& config, Parts& parts) const {
  MllamaConfig c = read_mllama_config(config);
  const auto text = text_architecture();
  auto text_parts = std::make_unique<BackboneParts>(parts, text->blueprint(c.text), text_names(c), kMllamaText);
  auto text_model = text->build(c.text, *text_parts);
  return std::make_unique<MllamaModel>(std::move(c), parts, std::move(text_parts), std::move(text_model));
}

std::unique_ptr<Processor> MllamaArchitecture::processor(const Value& config, const ProcessorFiles& files) const {
  return std::make_unique<MllamaProcessor>(read_mllama_config(config), files);
}

}  // namespace tenon::vlm
