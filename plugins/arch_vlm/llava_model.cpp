#include "llava_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/nonzero.h>

#include <algorithm>

#include "tenon/nn/activation.h"

namespace tenon::vlm {

namespace {
// What waits in the state while the tower runs.
const std::string kText = "llava.text";      // embedded tokens [B, T, hidden]
const std::string kPlaces = "llava.places";  // of image tokens in the flattened [B * T], int64
std::string feature_name(int64_t index) { return concat("llava.feature.", index); }
}  // namespace

LlavaModel::LlavaModel(LlavaConfig config, Parts& parts, std::unique_ptr<Parts> text_parts, std::unique_ptr<Model> text)
    : config_(std::move(config)),
      parts_(parts),
      precision_(parts.precision()),
      tower_(config_.vision, parts, kTowerPath, kVisionStack),
      text_parts_(std::move(text_parts)),
      text_(std::move(text)),
      linear_1_(&parts.slot(concat(kProjectorPath, ".linear_1"))),
      linear_2_(&parts.slot(concat(kProjectorPath, ".linear_2"))),
      last_layer_(*std::max_element(config_.feature_layers.begin(), config_.feature_layers.end())) {
  text_->seams().projector.set_default("mlp", [this](const ProjectorArgs& args) { return project(args.features); });
}

at::Tensor LlavaModel::places(const at::Tensor& ids, const at::Tensor& segments, int64_t pictures) const {
  at::Tensor is_image = ids.eq(config_.image_token);
  if (segments.defined()) is_image = is_image & segments.to(ids.device()).ne(0);
  at::Tensor places = at::nonzero(is_image.reshape({-1})).squeeze(1);
  const int64_t expected = pictures * config_.image_tokens();
  if (places.size(0) != expected)
    fail(ErrorCode::Data, "the batch has ", places.size(0), " image tokens (id ", config_.image_token, ") and ", pictures,
         " pictures, which take ", expected, ": ", config_.image_tokens(), " each");
  return places;
}

State LlavaModel::begin(const Batch& batch, Cache* cache) {
  State state = text_->begin(batch, cache);
  for (const auto& [name, tensor] : batch.media)
    if (name != "pixel_values") fail(ErrorCode::Data, "media tensor '", name, "' has no use here, expected pixel_values");
  const auto pixels = batch.media.find("pixel_values");
  if (pixels == batch.media.end() || pixels->second.size(0) == 0) return state;
  state.extras[kPlaces] = places(batch.ids, batch.segments, pixels->second.size(0));
  state.extras[kText] = state.hidden;
  state.hidden = tower_.embed(pixels->second);
  keep_feature(0, state);
  return state;
}

void LlavaModel::keep_feature(int64_t index, State& state) const {
  if (std::find(config_.feature_layers.begin(), config_.feature_layers.end(), index) != config_.feature_layers.end())
    state.extras[feature_name(index)] = state.hidden;
}

void LlavaModel::run_block(int stack, int64_t i, State& state) {
  const bool has_pictures = state.extras.count(kText) > 0;
  if (stack == kVisionStack) {
    if (!has_pictures || i >= last_layer_) return;
    state.hidden = tower_.layer(i, state.hidden);
    return keep_feature(i + 1, state);
  }
  if (has_pictures) join(state);
  text_->run_block(stack - kVisionStack - 1, i, state);
}

at::Tensor LlavaModel::project(const at::Tensor& features) const {
  const at::Tensor up = linear_1_->linear(features);
  return linear_2_->linear(nn::activate({.gate = up, .up = {}, .name = &config_.projector_activation}));
}

void LlavaModel::join(State& state) const {
  std::vector<at::Tensor> chosen;
  for (const int64_t index : config_.feature_layers) {
    const at::Tensor& feature = state.extras.at(feature_name(index));
    chosen.push_back(config_.drops_first ? feature.narrow(1, 1, feature.size(1) - 1) : feature);
  }
  const at::Tensor features = (chosen.size() == 1 ? chosen[0] : at::cat(chosen, -1)).to(precision_.compute);
  const at::Tensor projected = text_->seams().projector({.features = features});
  const at::Tensor text = state.extras.at(kText), places = state.extras.at(kPlaces).to(text.device());
  const int64_t width = text.size(2);
  state.hidden =
      text.reshape({-1, width}).index_copy(0, places, projected.reshape({-1, width}).to(text.device(), text.scalar_type())).view_as(text);
  for (const int64_t index : config_.feature_layers) state.extras.erase(feature_name(index));
  state.extras.erase(kText), state.extras.erase(kPlaces);
}

}  // namespace tenon::vlm
