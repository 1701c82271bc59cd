#include "llava.h"

#include "llava_config.h"
#include "llava_model.h"
#include "llava_next_processor.h"
#include "llava_processor.h"
#include "projector.h"
#include "tenon/backbone.h"
#include "tower.h"

namespace tenon::vlm {

namespace {

// As transformers 5 calls the modules. Files keep the names of transformers 4, or have these.
const BackboneNames kTextNames = {
    .path = {{{"model.", "model.language_model."}}},
    .files = {{{{"", "language_model."}}}, {{{"model.", "model.language_model."}}}},
};
const Prefixes kTowerFiles = {"vision_tower.vision_model.", "vision_tower.", "model.vision_tower.", "model.vision_tower.vision_model."};

// What stands behind each row of a tiled picture.
void add_newline(Blueprint& blueprint, const LlavaConfig& config, int64_t text_hidden) {
  DenseSpec newline;
  newline.path = kNewlinePath;
  newline.kind = DenseKind::Other, newline.shape = {text_hidden};
  newline.stack = kVisionStack, newline.block = config.vision.layers - 1;
  newline.part = "projector";
  newline.sources = {Source::rename("image_newline"), Source::rename("model.image_newline")};
  blueprint.tensors.push_back(std::move(newline));
}

}  // namespace

std::unique_ptr<Architecture> LlavaArchitecture::text_architecture(const std::string& type) const {
  if (!backbones_) fail(ErrorCode::Internal, "use() was not called, so there is no text model to ask for");
  return with_context("text_config", [&] { return backbones_->make(type); });
}

Blueprint LlavaArchitecture::blueprint(const Value& config) const {
  const LlavaConfig c = read_llava_config(family_, config);
  const auto architecture = text_architecture(c.text_type);
  const Blueprint text = with_context("text_config", [&] { return architecture->blueprint(c.text); });
  Blueprint b;
  b.model_type = family_.model_type;
  add_tower(b, c.vision, kTowerPath, kTowerFiles);
  // It runs where the tower ends.
  add_projector(b, {.in = c.vision.hidden * static_cast<int64_t>(c.feature_layers.size()),
                    .width = text.hidden_size,
                    .out = text.hidden_size,
                    .bias = c.projector_bias,
                    .block = c.vision.layers - 1});
  if (family_.is_tiled) add_newline(b, c, text.hidden_size);
  add_backbone(b, text, kTextNames);
  b.seams.push_back("projector");
  b.ignorable = {R"((?:model\.)?(?:language_model\.)?(?:model\.)?(?:layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq)",
                 R"((?:model\.)?vision_tower\.(?:vision_model\.)?embeddings\.position_ids)"};
  return b;
}

std::unique_ptr<Model> LlavaArchitecture::build(const Value& config, Parts& parts) const {
  LlavaConfig c = read_llava_config(family_, config);
  const auto text = text_architecture(c.text_type);
  auto text_parts = std::make_unique<BackboneParts>(parts, text->blueprint(c.text), kTextNames, kVisionStack + 1);
  auto text_model = text->build(c.text, *text_parts);
  return std::make_unique<LlavaModel>(std::move(c), parts, std::move(text_parts), std::move(text_model));
}

std::unique_ptr<Processor> LlavaArchitecture::processor(const Value& config, const ProcessorFiles& files) const {
  const LlavaConfig c = read_llava_config(family_, config);
  const int64_t vocab = text_architecture(c.text_type)->blueprint(c.text).vocab_size;
  if (c.image_token >= vocab)
    fail(ErrorCode::Data, "config.json (model_type '", family_.model_type, "'): image_token_index is ", c.image_token,
         ", the text model's vocabulary ends at ", vocab);
  if (family_.is_tiled) return std::make_unique<LlavaNextProcessor>(c, files);
  return std::make_unique<LlavaProcessor>(c, files);
}

}  // namespace tenon::vlm
