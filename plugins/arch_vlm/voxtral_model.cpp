#include "voxtral_model.h"

#include "media_places.h"

namespace tenon::vlm {

namespace {
// What waits in the state while the encoder runs.
const std::string kText = "voxtral.text";      // embedded tokens [B, T, hidden]
const std::string kPlaces = "voxtral.places";  // of audio tokens in the flattened [B * T], int64
}  // namespace

VoxtralModel::VoxtralModel(VoxtralConfig config, Parts& parts, std::unique_ptr<Parts> text_parts, std::unique_ptr<Model> text)
    : config_(std::move(config)),
      parts_(parts),
      tower_(config_.audio, parts, kAudioPath, kAudioStack),
      text_parts_(std::move(text_parts)),
      text_(std::move(text)),
      projector_(parts, kProjectorPath, config_.projector_activation, /*has_norm=*/false) {
  text_->seams().projector.set_default("mlp", [this](const ProjectorArgs& args) { return projector_(args.features); });
}

State VoxtralModel::begin(const Batch& batch, Cache* cache) {
  State state = text_->begin(batch, cache);
  for (const auto& [name, tensor] : batch.media)
    if (name != "input_features") fail(ErrorCode::Data, "media tensor '", name, "' has no use here, expected input_features");
  const auto features = batch.media.find("input_features");
  if (features == batch.media.end() || features->second.size(0) == 0) return state;
  if (!config_.audio_token) fail(ErrorCode::Data, "media hold input_features, and config.json has no audio_token_id to put them at");
  const int64_t windows = features->second.size(0), tokens = config_.tokens_per_window();
  const at::Tensor places = media_places(batch.ids, batch.segments, *config_.audio_token);
  if (places.size(0) != windows * tokens)
    fail(ErrorCode::Data, "the batch has ", places.size(0), " audio tokens (id ", *config_.audio_token, ") and ", windows,
         " windows of sound, which take ", windows * tokens, ": ", tokens, " each");
  state.extras[kPlaces] = places, state.extras[kText] = state.hidden;
  state.hidden = tower_.embed(features->second);
  return state;
}

void VoxtralModel::run_block(int stack, int64_t i, State& state) {
  if (stack != kAudioStack) return text_->run_block(stack - kAudioStack - 1, i, state);
  if (!state.extras.count(kText)) return;
  state.hidden = tower_.layer(i, state.hidden);
  if (i == config_.audio.layers - 1) join(state);
}

void VoxtralModel::join(State& state) const {
  const at::Tensor heard = tower_.finish(state.hidden).reshape({-1, config_.audio.intermediate});
  state.hidden = put_features(state.extras.at(kText), state.extras.at(kPlaces), text_->seams().projector({.features = heard}));
  state.extras.erase(kText), state.extras.erase(kPlaces);
}

}  // namespace tenon::vlm
