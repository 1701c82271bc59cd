#include "llava_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include <algorithm>

#include "media_places.h"

namespace tenon::vlm {

namespace {
// What waits in the state while the tower runs.
const std::string kText = "llava.text";      // embedded tokens [B, T, hidden]
const std::string kPlaces = "llava.places";  // of image tokens in the flattened [B * T], int64
const std::string kSizes = "llava.sizes";    // of a tiled family's pictures, [pictures, 2] int64
std::string feature_name(int64_t index) { return concat("llava.feature.", index); }
}  // namespace

LlavaModel::LlavaModel(LlavaConfig config, Parts& parts, std::unique_ptr<Parts> text_parts, std::unique_ptr<Model> text)
    : config_(std::move(config)),
      parts_(parts),
      precision_(parts.precision()),
      tower_(config_.vision, parts, kTowerPath, kVisionStack),
      text_parts_(std::move(text_parts)),
      text_(std::move(text)),
      projector_(parts, kProjectorPath, config_.projector_activation, /*has_norm=*/false),
      last_layer_(*std::max_element(config_.feature_layers.begin(), config_.feature_layers.end())) {
  if (config_.family->is_tiled) newline_ = &parts.dense(kNewlinePath);
  text_->seams().projector.set_default("mlp", [this](const ProjectorArgs& args) { return projector_(args.features); });
}

at::Tensor LlavaModel::places(const at::Tensor& ids, const at::Tensor& segments, int64_t pictures, int64_t expected) const {
  at::Tensor places = media_places(ids, segments, config_.image_token);
  if (places.size(0) != expected)
    fail(ErrorCode::Data, "the batch has ", places.size(0), " image tokens (id ", config_.image_token, ") and ", pictures,
         " pictures, which take ", expected, newline_ ? "" : concat(": ", config_.image_tokens(), " each"));
  return places;
}

State LlavaModel::begin(const Batch& batch, Cache* cache) {
  State state = text_->begin(batch, cache);
  for (const auto& [name, tensor] : batch.media)
    if (name != "pixel_values" && !(newline_ && name == "image_sizes"))
      fail(ErrorCode::Data, "media tensor '", name, "' has no use here, expected pixel_values", newline_ ? " and image_sizes" : "");
  const auto pixels = batch.media.find("pixel_values"), sizes = batch.media.find("image_sizes");
  if (pixels == batch.media.end() || pixels->second.size(0) == 0) return state;
  at::Tensor views = pixels->second;
  const int64_t pictures = views.size(0);
  int64_t expected = pictures * config_.image_tokens();
  if (newline_) {
    if (sizes == batch.media.end()) fail(ErrorCode::Data, "media hold pixel_values without image_sizes");
    std::tie(views, expected) = cut_views(views, sizes->second);
    state.extras[kSizes] = sizes->second;
  }
  state.extras[kPlaces] = places(batch.ids, batch.segments, pictures, expected);
  state.extras[kText] = state.hidden;
  state.hidden = tower_.embed(views);
  keep_feature(0, state);
  return state;
}

std::vector<Tiling> LlavaModel::tilings(const at::Tensor& sizes) const {
  if (sizes.dim() != 2 || sizes.size(1) != 2 || sizes.scalar_type() != at::kLong)
    fail(ErrorCode::Data, "image_sizes are ", sizes.sizes(), " of ", c10::toString(sizes.scalar_type()),
         ", expected [pictures, 2] of int64: height, width");
  constexpr int64_t kMaxEdge = 1 << 24;
  const at::Tensor rows = sizes.cpu().contiguous();
  const int64_t* edge = rows.const_data_ptr<int64_t>();
  std::vector<Tiling> all;
  for (int64_t i = 0; i < rows.size(0); ++i, edge += 2) {
    if (edge[0] < 1 || edge[1] < 1 || edge[0] > kMaxEdge || edge[1] > kMaxEdge)
      fail(ErrorCode::Data, "image_sizes[", i, "] is ", edge[0], " x ", edge[1], ", expected a height and a width");
    all.push_back(tile({edge[0], edge[1]}, config_.pinpoints, config_.vision.image_size, config_.vision.side()));
  }
  return all;
}

std::pair<at::Tensor, int64_t> LlavaModel::cut_views(const at::Tensor& pixels, const at::Tensor& sizes) const {
  const std::vector<Tiling> all = tilings(sizes);
  int64_t most = 0, tokens = 0;
  for (const Tiling& tiling : all) most = std::max(most, tiling.views()), tokens += tiling.tokens(config_.vision.side());
  if (pixels.dim() != 5 || pixels.size(0) != static_cast<int64_t>(all.size()) || pixels.size(1) < most)
    fail(ErrorCode::Data, "pixel_values are ", pixels.sizes(), ", image_sizes ask for [", all.size(), ", ", most, ", 3, ",
         config_.vision.image_size, ", ", config_.vision.image_size, "]");
  std::vector<at::Tensor> views;
  for (size_t i = 0; i < all.size(); ++i) views.push_back(pixels.select(0, static_cast<int64_t>(i)).narrow(0, 0, all[i].views()));
  return {at::cat(views), tokens};
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

void LlavaModel::join(State& state) const {
  std::vector<at::Tensor> chosen;
  for (const int64_t index : config_.feature_layers) {
    const at::Tensor& feature = state.extras.at(feature_name(index));
    chosen.push_back(config_.drops_first ? feature.narrow(1, 1, feature.size(1) - 1) : feature);
  }
  const at::Tensor features = (chosen.size() == 1 ? chosen[0] : at::cat(chosen, -1)).to(precision_.compute);
  at::Tensor projected = text_->seams().projector({.features = features});
  if (newline_) {
    const at::Tensor newline = newline_->value.to(projected.device(), projected.scalar_type());
    std::vector<at::Tensor> packed;
    int64_t first = 0;
    for (const Tiling& tiling : tilings(state.extras.at(kSizes))) {
      packed.push_back(pack_views(projected.narrow(0, first, tiling.views()), tiling, config_.vision.side(), newline));
      first += tiling.views();
    }
    projected = at::cat(packed);
  }
  state.hidden = put_features(state.extras.at(kText), state.extras.at(kPlaces), projected);
  for (const int64_t index : config_.feature_layers) state.extras.erase(feature_name(index));
  state.extras.erase(kText), state.extras.erase(kPlaces), state.extras.erase(kSizes);
}

}  // namespace tenon::vlm
