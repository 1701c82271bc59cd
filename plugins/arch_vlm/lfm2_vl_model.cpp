#include "lfm2_vl_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>

#include <algorithm>

#include "media_places.h"

namespace tenon::vlm {

namespace {

constexpr int kTowerStack = 0;
// What waits in the state while the tower runs.
const std::string kText = "lfm2_vl.text";      // embedded tokens [B, T, hidden]
const std::string kPlaces = "lfm2_vl.places";  // of image tokens in the flattened [B * T], int64
const std::string kShapes = "lfm2_vl.shapes";  // rows and columns of the views' patches, [views, 2] int64

constexpr const char *kPixels = "pixel_values", *kSizes = "spatial_shapes", *kMask = "pixel_attention_mask";

std::vector<Size> sizes_of(const at::Tensor& shapes) {
  const at::Tensor rows = shapes.cpu().contiguous();
  const int64_t* value = rows.const_data_ptr<int64_t>();
  std::vector<Size> sizes;
  for (int64_t i = 0; i < rows.size(0); ++i, value += 2) sizes.push_back({value[0], value[1]});
  return sizes;
}

at::Tensor lengths_of(const std::vector<Size>& grids) {
  std::vector<int64_t> lengths;
  for (const Size& grid : grids) lengths.push_back(grid.height * grid.width);
  return at::tensor(lengths, at::kLong);
}

}  // namespace

at::Tensor unshuffle(const at::Tensor& features, const std::vector<Size>& grids, int64_t factor) {
  const int64_t width = features.size(2);
  std::vector<at::Tensor> all;
  int64_t first = 0;
  for (const Size& grid : grids) {
    const int64_t rows = grid.height / factor, columns = grid.width / factor;
    all.push_back(features.narrow(1, first, grid.height * grid.width)
                      .reshape({rows, factor, columns, factor, width})
                      .transpose(1, 2)
                      .reshape({1, rows * columns, factor * factor * width}));
    first += grid.height * grid.width;
  }
  return all.size() == 1 ? all[0] : at::cat(all, 1);
}

Lfm2VlModel::Lfm2VlModel(Lfm2VlConfig config, Parts& parts, std::unique_ptr<Parts> text_parts, std::unique_ptr<Model> text)
    : config_(std::move(config)),
      parts_(parts),
      precision_(parts.precision()),
      tower_(config_.vision, parts, kNaflexPath, kTowerStack),
      projector_(parts, kProjectorPath, config_.projector_activation, config_.projector_has_norm),
      text_parts_(std::move(text_parts)),
      text_(std::move(text)) {
  text_->seams().projector.set_default("mlp", [this](const ProjectorArgs& args) { return projector_(args.features); });
}

std::vector<Size> Lfm2VlModel::read_shapes(const Batch& batch) const {
  constexpr int64_t kMaxSide = 1 << 20;
  const at::Tensor& shapes = batch.media.at(kSizes);
  const at::Tensor& pixels = batch.media.at(kPixels);
  if (shapes.dim() != 2 || shapes.size(1) != 2 || shapes.scalar_type() != at::kLong)
    fail(ErrorCode::Data, kSizes, " are ", shapes.sizes(), " of ", c10::toString(shapes.scalar_type()),
         ", expected [views, 2] of int64: rows, columns");
  const int64_t width = config_.vision.channels * config_.vision.patch * config_.vision.patch;
  if (pixels.dim() != 3 || pixels.size(0) != shapes.size(0) || pixels.size(2) != width)
    fail(ErrorCode::Data, kPixels, " are ", pixels.sizes(), ", expected [", shapes.size(0), ", patches, ", width, "]");
  std::vector<Size> grids = sizes_of(shapes);
  for (size_t i = 0; i < grids.size(); ++i) {
    const Size& grid = grids[i];
    const auto is_side = [&](int64_t side) { return side >= 1 && side <= kMaxSide && side % config_.factor == 0; };
    if (!is_side(grid.height) || !is_side(grid.width) || grid.height * grid.width > pixels.size(1))
      fail(ErrorCode::Data, kSizes, "[", i, "] is ", grid.height, " x ", grid.width, ", expected rows and columns that are multiples of ",
           config_.factor, ", and ", pixels.size(1), " patches or fewer");
  }
  return grids;
}

void Lfm2VlModel::check_mask(const Batch& batch, const std::vector<Size>& grids) const {
  const at::Tensor& mask = batch.media.at(kMask);
  const int64_t views = static_cast<int64_t>(grids.size()), patches = batch.media.at(kPixels).size(1);
  if (mask.dim() != 2 || mask.size(0) != views || mask.size(1) != patches)
    fail(ErrorCode::Data, kMask, " is ", mask.sizes(), ", expected [", views, ", ", patches, "]");
  const at::Tensor expected = at::arange(patches, at::kLong).unsqueeze(0) < lengths_of(grids).unsqueeze(1);
  if (!mask.cpu().ne(0).equal(expected))
    fail(ErrorCode::Data, kMask, " does not mark the patches of ", kSizes, ", rows times columns from the first on");
}

State Lfm2VlModel::begin(const Batch& batch, Cache* cache) {
  State state = text_->begin(batch, cache);
  for (const auto& [name, tensor] : batch.media)
    if (name != kPixels && name != kSizes && name != kMask)
      fail(ErrorCode::Data, "media tensor '", name, "' has no use here, expected ", kPixels, ", ", kSizes, " and ", kMask);
  const auto pixels = batch.media.find(kPixels);
  if (pixels == batch.media.end() || pixels->second.size(0) == 0) return state;
  for (const char* name : {kSizes, kMask})
    if (!batch.media.count(name)) fail(ErrorCode::Data, "media hold ", kPixels, " without ", name);
  const std::vector<Size> grids = read_shapes(batch);
  check_mask(batch, grids);
  const at::Tensor places = media_places(batch.ids, batch.segments, config_.image_token);
  std::vector<at::Tensor> patches;
  int64_t expected = 0;
  for (size_t i = 0; i < grids.size(); ++i) {
    const int64_t count = grids[i].height * grids[i].width;
    patches.push_back(pixels->second.select(0, static_cast<int64_t>(i)).narrow(0, 0, count));
    expected += count / (config_.factor * config_.factor);
  }
  if (places.size(0) != expected)
    fail(ErrorCode::Data, "the batch has ", places.size(0), " image tokens (id ", config_.image_token, ") and ", grids.size(),
         " views of pictures, which take ", expected);
  state.extras[kPlaces] = places, state.extras[kText] = state.hidden, state.extras[kShapes] = batch.media.at(kSizes);
  state.hidden = at::cat(patches).unsqueeze(0);
  return state;
}

void Lfm2VlModel::run_block(int stack, int64_t i, State& state) {
  if (stack != kTowerStack) return text_->run_block(stack - kTowerStack - 1, i, state);
  if (!state.extras.count(kText)) return;
  const std::vector<Size> grids = sizes_of(state.extras.at(kShapes));
  if (i == 0) state.hidden = tower_.embed(state.hidden, grids);
  state.hidden = tower_.layer(i, state.hidden, lengths_of(grids));
  if (i == config_.vision.layers - 1) join(state, grids);
}

void Lfm2VlModel::join(State& state, const std::vector<Size>& grids) const {
  const at::Tensor features = text_->seams().projector({.features = unshuffle(tower_.finish(state.hidden), grids, config_.factor)});
  state.hidden = put_features(state.extras.at(kText), state.extras.at(kPlaces), features);
  for (const std::string& name : {kText, kPlaces, kShapes}) state.extras.erase(name);
}

}  // namespace tenon::vlm
