#include "qwen_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <array>

#include "join.h"
#include "tenon/nn/rotary.h"

namespace tenon::vlm {

namespace {

constexpr int kVisualStack = 0;
// What waits in the state while the tower runs.
const std::string kText = "qwen_vl.text";      // embedded tokens [B, T, hidden]
const std::string kPlaces = "qwen_vl.places";  // of media tokens in the flattened [B * T], int64, in the tower's order
const std::string kCos = "qwen_vl.cos", kSin = "qwen_vl.sin", kFrames = "qwen_vl.frames", kWindows = "qwen_vl.windows";

// The text model's cache, and where its tokens stand.
class QwenVlCache final : public Cache {
 public:
  QwenVlCache(std::unique_ptr<Cache> text, int64_t batch) : text_(std::move(text)), held_(static_cast<size_t>(batch)) {}
  int64_t length() const override { return text_->length(); }
  int64_t capacity() const override { return text_->capacity(); }
  void truncate(int64_t length) override {
    text_->truncate(length);
    forget();
  }
  Cache* text() { return text_.get(); }
  // Without tokens that were never committed.
  Held& held() {
    forget();
    return held_;
  }
  bool fits(int64_t batch) const { return static_cast<int64_t>(held_.size()) == batch; }

 private:
  void forget() {
    const auto length = static_cast<size_t>(text_->length());
    for (auto& row : held_)
      if (row.size() > length) row.resize(length);
  }
  std::unique_ptr<Cache> text_;
  Held held_;
};

const at::Tensor* find(const Batch& batch, const char* name) {
  const auto found = batch.media.find(name);
  return found == batch.media.end() || found->second.size(0) == 0 ? nullptr : &found->second;
}

struct KindNames {
  const char *kind, *pixels, *grids;
};
constexpr std::array<KindNames, 2> kKinds = {
    {{"image", "pixel_values", "image_grid_thw"}, {"video", "pixel_values_videos", "video_grid_thw"}}};
constexpr const char* kSeconds = "second_per_grid_ts";

}  // namespace

QwenVlModel::QwenVlModel(QwenVlConfig config, Parts& parts, std::unique_ptr<Parts> text_parts, std::unique_ptr<Model> text)
    : config_(std::move(config)),
      parts_(parts),
      precision_(parts.precision()),
      tower_(config_.vision, parts, kVisualPath, kVisualStack),
      text_parts_(std::move(text_parts)),
      text_(std::move(text)) {
  text_->seams().rotary.set_default("mrope", [this](const RotaryArgs& args) { return rotary(args); });
  text_->seams().projector.set_default("patch_merger", [this](const ProjectorArgs& args) { return tower_.merge(args.features); });
}

std::unique_ptr<Cache> QwenVlModel::make_cache(int64_t batch, int64_t capacity) {
  return std::make_unique<QwenVlCache>(text_->make_cache(batch, capacity), batch);
}

// Each section of a head's pairs turns with one axis.
Rotary QwenVlModel::rotary(const RotaryArgs& args) const {
  const int64_t axes = args.positions.size(0);
  if (axes == 1) return nn::rotary_tables(args);
  if (axes != 3) fail(ErrorCode::Internal, "positions of ", axes, " axes, expected 1 or 3");
  std::vector<Rotary> tables;
  for (int64_t a = 0; a < axes; ++a) {
    RotaryArgs one = args;
    one.positions = args.positions.narrow(0, a, 1);
    tables.push_back(nn::rotary_tables(one));
  }
  const auto compose = [&](at::Tensor Rotary::*table) {
    std::vector<at::Tensor> parts;
    int64_t begin = 0;
    for (size_t i = 0; i < config_.sections.size(); ++i) {
      parts.push_back((tables[i % 3].*table).narrow(-1, begin, config_.sections[i]));
      begin += config_.sections[i];
    }
    const at::Tensor half = at::cat(parts, -1);
    return at::cat({half, half}, -1);
  };
  return {compose(&Rotary::cos), compose(&Rotary::sin)};
}

std::vector<TokenGrids> QwenVlModel::read_media(const Batch& batch) const {
  for (const auto& [name, tensor] : batch.media) {
    const bool is_known = name == kSeconds || std::any_of(kKinds.begin(), kKinds.end(),
                                                          [&](const KindNames& k) { return name == k.pixels || name == k.grids; });
    if (!is_known)
      fail(ErrorCode::Data, "media tensor '", name,
           "' has no use here, expected pixel_values, image_grid_thw, pixel_values_videos, video_grid_thw or second_per_grid_ts");
  }
  std::vector<TokenGrids> kinds;
  for (const KindNames& names : kKinds) {
    TokenGrids kind{.kind = names.kind,
                    .token = names.kind == kKinds[0].kind ? config_.image_token : config_.video_token,
                    .grids = {},
                    .frame_steps = {},
                    .merge = config_.vision.merge};
    const at::Tensor *pixels = find(batch, names.pixels), *grids = find(batch, names.grids);
    if ((pixels == nullptr) != (grids == nullptr))
      fail(ErrorCode::Data, "media hold ", pixels ? names.pixels : names.grids, " without ", pixels ? names.grids : names.pixels);
    if (grids) kind.grids = read_grids(*grids, config_.vision.merge, names.grids);
    kinds.push_back(std::move(kind));
  }
  // Times of frames: of qwen2_5_vl's videos alone. A video whose times are not told has a second between frames.
  TokenGrids& videos = kinds[1];
  const at::Tensor* seconds = find(batch, kSeconds);
  if (seconds && (seconds->dim() != 1 || seconds->size(0) != static_cast<int64_t>(videos.grids.size())))
    fail(ErrorCode::Data, kSeconds, " is ", seconds->sizes(), ", expected one number for each of ", videos.grids.size(), " videos");
  if (config_.family->is_windowed)
    for (size_t i = 0; i < videos.grids.size(); ++i)
      videos.frame_steps.push_back(static_cast<float>(config_.vision.tokens_per_second) *
                                   (seconds ? seconds->select(0, static_cast<int64_t>(i)).to(at::kFloat).item<float>() : 1.0f));
  return kinds;
}

at::Tensor QwenVlModel::read_patches(const Batch& batch, const std::vector<TokenGrids>& kinds) const {
  std::vector<at::Tensor> all;
  for (size_t k = 0; k < kinds.size(); ++k) {
    if (kinds[k].grids.empty()) continue;
    const at::Tensor& pixels = batch.media.at(kKinds[k].pixels);
    int64_t expected = 0;
    for (const Grid& grid : kinds[k].grids) expected += grid.patches();
    if (pixels.dim() != 2 || pixels.size(0) != expected || pixels.size(1) != config_.vision.patch_width())
      fail(ErrorCode::Data, kKinds[k].pixels, " are ", pixels.sizes(), ", ", kKinds[k].grids, " asks for [", expected, ", ",
           config_.vision.patch_width(), "]");
    all.push_back(pixels);
  }
  return all.size() == 1 ? all[0] : at::cat(all);
}

State QwenVlModel::begin(const Batch& batch, Cache* cache) {
  auto* own = dynamic_cast<QwenVlCache*>(cache);
  if (cache && (!own || !own->fits(batch.ids.size(0))))
    fail(ErrorCode::Internal, "this cache was made by another model or for another batch");
  const std::vector<TokenGrids> kinds = read_media(batch);
  const bool has_media = std::any_of(kinds.begin(), kinds.end(), [](const TokenGrids& kind) { return !kind.grids.empty(); });
  Batch placed = batch;
  placed.media.clear();
  Placement placement;
  const bool is_placed = batch.positions.defined();
  if (has_media || (own && !is_placed))
    placement = place_media(batch.ids, batch.segments, kinds, own && !is_placed ? &own->held() : nullptr);
  if (is_placed && own) hold_positions(batch.positions, batch.segments, own->held());
  if (!is_placed && placement.positions.defined()) placed.positions = placement.positions;

  State state = text_->begin(placed, own ? own->text() : nullptr);
  if (!has_media) return state;
  std::vector<Grid> grids;
  for (const TokenGrids& kind : kinds) grids.insert(grids.end(), kind.grids.begin(), kind.grids.end());
  const TowerLayout layout = tower_.layout(grids);
  at::Tensor places = at::cat(placement.places);
  if (!layout.order.empty()) places = places.index_select(0, at::tensor(layout.order, at::kLong));
  state.extras[kPlaces] = places, state.extras[kText] = state.hidden;
  state.extras[kCos] = layout.cos, state.extras[kSin] = layout.sin, state.extras[kFrames] = layout.frames;
  if (layout.windows.defined()) state.extras[kWindows] = layout.windows;
  state.hidden = tower_.embed(read_patches(batch, kinds), layout);
  return state;
}

void QwenVlModel::run_block(int stack, int64_t i, State& state) {
  if (stack != kVisualStack) return text_->run_block(stack - kVisualStack - 1, i, state);
  if (!state.extras.count(kText)) return;
  TowerLayout layout{
      .cos = state.extras.at(kCos), .sin = state.extras.at(kSin), .order = {}, .frames = state.extras.at(kFrames), .windows = {}};
  if (const auto windows = state.extras.find(kWindows); windows != state.extras.end()) layout.windows = windows->second;
  state.hidden = tower_.layer(i, state.hidden, layout);
  if (i == config_.vision.layers - 1) join(state);
}

void QwenVlModel::join(State& state) const {
  const at::Tensor features = text_->seams().projector({.features = state.hidden});
  state.hidden = put_features(state.extras.at(kText), state.extras.at(kPlaces), features);
  for (const std::string& name : {kText, kPlaces, kCos, kSin, kFrames, kWindows}) state.extras.erase(name);
}

}  // namespace tenon::vlm
