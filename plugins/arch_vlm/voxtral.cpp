#include "voxtral.h"

#include "projector.h"
#include "tenon/backbone.h"
#include "voxtral_model.h"
#include "voxtral_processor.h"

namespace tenon::vlm {

namespace {
// As transformers 5 calls the modules. Files keep the names of transformers 4, or have these.
const BackboneNames kTextNames = {
    .path = {{{"model.", "model.language_model."}}},
    .files = {{{{"", "language_model."}}}, {{{"model.", "model.language_model."}}}},
};
const Prefixes kTowerFiles = {"audio_tower.", "model.audio_tower."};
}  // namespace

std::unique_ptr<Architecture> VoxtralArchitecture::text_architecture(const std::string& type) const {
  if (!backbones_) fail(ErrorCode::Internal, "use() was not called, so there is no text model to ask for");
  return with_context("text_config", [&] { return backbones_->make(type); });
}

Blueprint VoxtralArchitecture::blueprint(const Value& config) const {
  const VoxtralConfig c = read_voxtral_config(config);
  const auto architecture = text_architecture(c.text_type);
  const Blueprint text = with_context("text_config", [&] { return architecture->blueprint(c.text); });
  Blueprint b;
  b.model_type = "voxtral";
  const double positions_per_token = static_cast<double>(c.audio.positions) / static_cast<double>(c.tokens_per_window());
  add_audio_tower(b, c.audio, kAudioPath, kTowerFiles, positions_per_token);
  // It runs where the tower ends.
  add_projector(
      b, {.in = c.audio.intermediate, .width = text.hidden_size, .out = text.hidden_size, .bias = false, .block = c.audio.layers - 1});
  add_backbone(b, text, kTextNames);
  b.seams.push_back("projector");
  b.ignorable = {R"((?:model\.)?(?:language_model\.)?(?:model\.)?(?:layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq)"};
  return b;
}

std::unique_ptr<Model> VoxtralArchitecture::build(const Value& config, Parts& parts) const {
  VoxtralConfig c = read_voxtral_config(config);
  const auto text = text_architecture(c.text_type);
  auto text_parts = std::make_unique<BackboneParts>(parts, text->blueprint(c.text), kTextNames, kAudioStack + 1);
  auto text_model = text->build(c.text, *text_parts);
  return std::make_unique<VoxtralModel>(std::move(c), parts, std::move(text_parts), std::move(text_model));
}

std::unique_ptr<Processor> VoxtralArchitecture::processor(const Value& config, const ProcessorFiles& files) const {
  const VoxtralConfig c = read_voxtral_config(config);
  const int64_t vocab = text_architecture(c.text_type)->blueprint(c.text).vocab_size;
  if (!c.audio_token || *c.audio_token >= vocab)
    fail(ErrorCode::Data, "config.json (model_type 'voxtral'): audio_token_id is ", c.audio_token ? concat(*c.audio_token) : "absent",
         ", expected a token of the text model, 0 to ", vocab - 1);
  return std::make_unique<VoxtralProcessor>(c, files);
}

}  // namespace tenon::vlm
