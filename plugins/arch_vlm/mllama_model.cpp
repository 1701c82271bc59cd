#include "mllama_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>

#include <algorithm>

#include "tenon/nn/kv_cache.h"

namespace tenon::vlm {

namespace {

// What waits in the state while the tower runs.
const std::string kEmbedded = "mllama.text";     // embedded tokens [B, T, hidden]
const std::string kIds = "mllama.ids";           // of aspect ratios, [pictures] int64
const std::string kTileCounts = "mllama.tiles";  // of each picture, [pictures] int64
std::string feature_name(int64_t layer) { return concat("mllama.feature.", layer); }

std::vector<int64_t> numbers(const at::Tensor& tensor) {
  const at::Tensor x = tensor.cpu().contiguous();
  return {x.const_data_ptr<int64_t>(), x.const_data_ptr<int64_t>() + x.numel()};
}

// The decoder knows its own cache alone.
class OwnCache {
 public:
  explicit OwnCache(State& state) : state_(state), cache_(state.cache) {
    if (cache_) state_.cache = static_cast<MllamaCache*>(cache_)->text();
  }
  OwnCache(const OwnCache&) = delete;
  OwnCache& operator=(const OwnCache&) = delete;
  ~OwnCache() { state_.cache = cache_; }

 private:
  State& state_;
  Cache* cache_;
};

}  // namespace

MllamaModel::MllamaModel(MllamaConfig config, Parts& parts, std::unique_ptr<Parts> text_parts, std::unique_ptr<Model> text)
    : config_(std::move(config)),
      parts_(parts),
      precision_(parts.precision()),
      tower_(config_.vision, parts, kMllamaTowerPath, kMllamaTower),
      text_parts_(std::move(text_parts)),
      text_(std::move(text)),
      cross_(config_, parts, text_->seams(), kMllamaTextPath),
      projector_(&parts.slot(kMllamaProjectorPath)) {
  Seams& seams = text_->seams();
  seams.projector.set_default("linear", [this](const ProjectorArgs& args) { return projector_->linear(args.features); });
  seams.block.set_default("mllama_block", [this, decoder = seams.block](const BlockArgs& args) {
    State& state = *args.state;
    if (config_.looks.at(static_cast<size_t>(args.layer))) {
      cross_.run(state, args.layer, static_cast<MllamaCache*>(state.cache));
      return true;
    }
    const OwnCache own(state);
    return decoder(args);
  });
}

// Blocks that look at pictures hold no text: the decoder's cache, an nn::KvCache with a layer for each block, has no heads there.
std::unique_ptr<Cache> MllamaModel::make_cache(int64_t batch, int64_t capacity) {
  std::vector<nn::KvCache::Layer> layers;
  for (int64_t i = 0; i < config_.layers(); ++i)
    layers.push_back({.kv_heads = config_.looks[static_cast<size_t>(i)] ? 0 : config_.kv_heads,
                      .head_dim = config_.head_dim(),
                      .device = parts_.device(kMllamaText, i)});
  return std::make_unique<MllamaCache>(std::make_unique<nn::KvCache>(layers, batch, capacity, precision_.compute), batch, config_.layers());
}

std::pair<TilePictures, Pictures> MllamaModel::read_pictures(const Batch& batch) const {
  const auto find = [&](const char* name) { return batch.media.find(name); };
  const auto pixels = find("pixel_values"), ids = find("aspect_ratio_ids"), mask = find("aspect_ratio_mask"), none = batch.media.end();
  for (const auto& [name, tensor] : batch.media)
    if (name != "pixel_values" && name != "aspect_ratio_ids" && name != "aspect_ratio_mask")
      fail(ErrorCode::Data, "media tensor '", name, "' has no use here, expected pixel_values, aspect_ratio_ids and aspect_ratio_mask");
  TilePictures tower;
  Pictures pictures{.max_tiles = config_.vision.max_tiles, .image_token = config_.image_token};
  if (pixels == none || pixels->second.numel() == 0) return {tower, pictures};
  if (ids == none || mask == none)
    fail(ErrorCode::Data, "media hold pixel_values without ", ids == none ? "aspect_ratio_ids" : "aspect_ratio_mask");
  // [pictures], or [rows, pictures]
  const at::IntArrayRef lead = ids->second.sizes();
  const auto expect = [&](const auto& found, std::vector<int64_t> rest, bool is_integer) {
    std::vector<int64_t> sizes = lead.vec();
    sizes.insert(sizes.end(), rest.begin(), rest.end());
    if (found->second.sizes() != at::IntArrayRef(sizes) || (is_integer && found->second.scalar_type() != at::kLong))
      fail(ErrorCode::Data, found->first, " are ", found->second.sizes(), " of ", c10::toString(found->second.scalar_type()), ", expected ",
           at::IntArrayRef(sizes), is_integer ? " of int64" : ", as aspect_ratio_ids and the vision tower have it");
  };
  const int64_t tiles = config_.vision.max_tiles, edge = config_.vision.image_size;
  if (lead.size() != 1 && !(lead.size() == 2 && lead[0] == batch.ids.size(0)))
    fail(ErrorCode::Data, "aspect_ratio_ids are ", lead, ", expected [pictures], or [rows, pictures] of ", batch.ids.size(0), " rows");
  expect(ids, {}, true), expect(mask, {tiles}, true), expect(pixels, {tiles, config_.vision.channels, edge, edge}, false);
  if (lead.size() == 2) pictures.per_row = lead[1];
  tower.pixels = pixels->second.reshape({-1, tiles, config_.vision.channels, edge, edge}), tower.ids = ids->second.reshape({-1});
  for (const int64_t id : numbers(ids->second)) {
    if (id < 0 || id > config_.vision.aspect_ratios)
      fail(ErrorCode::Data, "aspect_ratio_ids hold ", id, ", expected numbers from 0 to ", config_.vision.aspect_ratios);
    if (pictures.per_row > 0) pictures.is_filler.push_back(id == 0);
  }
  const std::vector<int64_t> cells = numbers(mask->second);
  for (auto row = cells.begin(); row != cells.end(); row += tiles) {
    const auto used = std::find(row, row + tiles, 0) - row;
    if (used == 0 || std::count(row, row + tiles, 1) != used || std::count(row, row + tiles, 0) != tiles - used)
      fail(ErrorCode::Data, "aspect_ratio_mask has a row that is not one or more 1 and then 0");
    pictures.tiles.push_back(used);
  }
  tower.tiles = pictures.tiles;
  return {tower, pictures};
}

State MllamaModel::begin(const Batch& batch, Cache* cache) {
  auto* own = dynamic_cast<MllamaCache*>(cache);
  if (cache && (!own || !own->fits(batch.ids.size(0))))
    fail(ErrorCode::Internal, "this cache was made by another model or for another batch");
  auto [tower, pictures] = read_pictures(batch);
  Batch words = batch;
  words.media.clear();
  State state = text_->begin(words, own ? own->text() : nullptr);
  state.cache = own;

  Marks* marks = own ? &own->marks() : nullptr;
  if (own) pictures.first = own->next_picture();
  CrossLayers::prepare(state, look(batch.ids, batch.segments, state.past, pictures, marks), pictures.first);
  if (tower.tiles.empty()) return state;
  state.extras[kEmbedded] = state.hidden;
  state.extras[kIds] = tower.ids, state.extras[kTileCounts] = at::tensor(tower.tiles, at::kLong);
  state.hidden = tower_.embed(tower);
  return state;
}

void MllamaModel::run_block(int stack, int64_t i, State& state) {
  if (stack >= kMllamaText) return text_->run_block(stack - kMllamaText, i, state);
  if (state.extras.count(kEmbedded)) run_tower(stack, i, state);
}

void MllamaModel::run_tower(int stack, int64_t i, State& state) const {
  const std::vector<int64_t> tiles = numbers(state.extras.at(kTileCounts));
  const auto& kept = config_.vision.feature_layers;
  if (stack == kMllamaTower) {
    state.hidden = tower_.layer(i, state.hidden, tiles);
    if (std::find(kept.begin(), kept.end(), i) != kept.end()) state.extras[feature_name(i)] = state.hidden;
    return;
  }
  if (i == 0) state.hidden = tower_.between(state.hidden, state.extras.at(kIds));
  state.hidden = tower_.global_layer(i, state.hidden, tiles);
  if (i == config_.vision.global_layers - 1) join(state);
}

void MllamaModel::join(State& state) const {
  std::vector<at::Tensor> kept;
  for (const int64_t layer : config_.vision.feature_layers) kept.push_back(state.extras.at(feature_name(layer)));
  CrossLayers::set_features(state, text_->seams().projector({.features = tower_.features(state.hidden, kept)}));
  state.hidden = state.extras.at(kEmbedded);
  for (const int64_t layer : config_.vision.feature_layers) state.extras.erase(feature_name(layer));
  for (const std::string& name : {kEmbedded, kIds, kTileCounts}) state.extras.erase(name);
}

at::Tensor MllamaModel::finish(State& state) {
  const OwnCache own(state);
  return text_->finish(state);
}

}  // namespace tenon::vlm
