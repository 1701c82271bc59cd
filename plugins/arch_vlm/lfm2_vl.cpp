#include "lfm2_vl.h"

#include "lfm2_vl_config.h"
#include "lfm2_vl_model.h"
#include "lfm2_vl_processor.h"
#include "projector.h"
#include "tenon/backbone.h"
#include "tower.h"

namespace tenon::vlm {

namespace {
// Files have the modules' names; those of transformers 4 put one more before the tower's.
const BackboneNames kTextNames = {
    .path = {{{"model.", "model.language_model."}}},
    .files = {{{{"model.", "model.language_model."}}}},
};
const Prefixes kTowerFiles = {"model.vision_tower.vision_model.", "model.vision_tower."};
const Prefixes kModuleFiles = {"model.multi_modal_projector."};
constexpr int kBehindTheTower = 16;  // stages of the last block that a layer of the tower does not have
}  // namespace

std::unique_ptr<Architecture> Lfm2VlArchitecture::text_architecture(const std::string& type) const {
  if (!backbones_) fail(ErrorCode::Internal, "use() was not called, so there is no text model to ask for");
  return with_context("text_config", [&] { return backbones_->make(type); });
}

Blueprint Lfm2VlArchitecture::blueprint(const Value& config) const {
  const Lfm2VlConfig c = read_lfm2_vl_config(config);
  const auto architecture = text_architecture(c.text_type);
  const Blueprint text = with_context("text_config", [&] { return architecture->blueprint(c.text); });
  Blueprint b;
  b.model_type = kModelType;
  add_tower(b, c.vision, kNaflexPath, kTowerFiles);
  add_projector(b, {.files = kModuleFiles,
                    .in = c.square_width(),
                    .width = c.projector_width,
                    .out = text.hidden_size,
                    .bias = c.projector_bias,
                    .has_norm = c.projector_has_norm,
                    .block = c.vision.layers - 1,
                    .first_stage = kBehindTheTower});
  add_backbone(b, text, kTextNames);
  b.seams.push_back("projector");
  // PEFT finds adapters under the modules' own names alone.
  for (SlotSpec& slot : b.slots) slot.file_path = slot.path;
  b.ignorable = {R"(model\.language_model\.(?:rotary_emb|pos_emb)\.inv_freq)"};
  return b;
}

std::unique_ptr<Model> Lfm2VlArchitecture::build(const Value& config, Parts& parts) const {
  Lfm2VlConfig c = read_lfm2_vl_config(config);
  const auto text = text_architecture(c.text_type);
  auto text_parts = std::make_unique<BackboneParts>(parts, text->blueprint(c.text), kTextNames, /*first_stack=*/1);
  auto text_model = text->build(c.text, *text_parts);
  return std::make_unique<Lfm2VlModel>(std::move(c), parts, std::move(text_parts), std::move(text_model));
}

std::unique_ptr<Processor> Lfm2VlArchitecture::processor(const Value& config, const ProcessorFiles& files) const {
  const Lfm2VlConfig c = read_lfm2_vl_config(config);
  const int64_t vocab = text_architecture(c.text_type)->blueprint(c.text).vocab_size;
  if (c.image_token >= vocab)
    fail(ErrorCode::Data, "config.json (model_type '", kModelType, "'): image_token_id is ", c.image_token,
         ", the text model's vocabulary ends at ", vocab);
  return std::make_unique<Lfm2VlProcessor>(c, files);
}

}  // namespace tenon::vlm
