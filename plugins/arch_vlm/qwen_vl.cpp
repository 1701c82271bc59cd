#include "qwen_vl.h"

#include "qwen_model.h"
#include "qwen_processor.h"
#include "qwen_tower.h"
#include "tenon/backbone.h"

namespace tenon::vlm {

namespace {
// Modules as transformers 5 calls them. Files keep the names of the first releases, or have these.
const BackboneNames kTextNames = {
    .path = {{{"model.", "model.language_model."}}},
    .files = {{}, {{{"model.", "model.language_model."}}}},
};
const Prefixes kVisualFiles = {"visual.", "model.visual."};
}  // namespace

std::unique_ptr<Architecture> QwenVlArchitecture::text_architecture() const {
  if (!backbones_) fail(ErrorCode::Internal, "use() was not called, so there is no text model to ask for");
  return with_context("text_config", [&] { return backbones_->make("qwen2"); });
}

Blueprint QwenVlArchitecture::blueprint(const Value& config) const {
  const QwenVlConfig c = read_qwen_config(family_, config);
  const auto architecture = text_architecture();
  const Blueprint text = with_context("text_config", [&] { return architecture->blueprint(c.text); });
  Blueprint b;
  b.model_type = family_.model_type;
  add_qwen_tower(b, c.vision, kVisualPath, kVisualFiles);
  add_backbone(b, text, kTextNames);
  b.seams.push_back("projector");
  // Checkpoints keep the old names, but PEFT finds adapters under the modules' own names alone: for these models it knows no conversion.
  for (SlotSpec& slot : b.slots) slot.file_path = slot.path;
  b.ignorable = {R"(model\.(?:language_model\.)?(?:layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq)",
                 R"((?:model\.)?visual\.rotary_pos_emb\.inv_freq)"};
  return b;
}

std::unique_ptr<Model> QwenVlArchitecture::build(const Value& config, Parts& parts) const {
  QwenVlConfig c = read_qwen_config(family_, config);
  const auto text = text_architecture();
  auto text_parts = std::make_unique<BackboneParts>(parts, text->blueprint(c.text), kTextNames, /*first_stack=*/1);
  auto text_model = text->build(c.text, *text_parts);
  return std::make_unique<QwenVlModel>(std::move(c), parts, std::move(text_parts), std::move(text_model));
}

std::unique_ptr<Processor> QwenVlArchitecture::processor(const Value& config, const ProcessorFiles& files) const {
  const QwenVlConfig c = read_qwen_config(family_, config);
  const int64_t vocab = text_architecture()->blueprint(c.text).vocab_size;
  if (c.image_token >= vocab)
    fail(ErrorCode::Data, "config.json (model_type '", family_.model_type, "'): image_token_id is ", c.image_token,
         ", the text model's vocabulary ends at ", vocab);
  return std::make_unique<QwenProcessor>(c, files, /*takes_videos=*/c.video_token < vocab);
}

}  // namespace tenon::vlm
