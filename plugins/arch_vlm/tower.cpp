#include "tower.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_upsample_bilinear2d_aa.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv2d.h>

#include <map>
#include <utility>

namespace tenon::vlm {

namespace {

EncoderShape layer_shape(const VisionConfig& c) {
  return {.hidden = c.hidden, .intermediate = c.intermediate, .heads = c.heads, .eps = c.eps, .activation = c.activation};
}
std::string layer_name(int64_t i) { return concat("encoder.layers.", i, "."); }

class Builder {
 public:
  Builder(Blueprint& blueprint, const VisionConfig& config, const std::string& path, const Prefixes& files)
      : b_(blueprint), c_(config), part_(blueprint, path, files, "encoder.layers", config.layers, "vision") {}

  void build() {
    const bool clip = c_.kind == TowerKind::Clip;
    if (clip) tensor("embeddings.class_embedding", {c_.hidden}, DenseKind::Other, 0);
    if (c_.kind == TowerKind::Siglip2) {
      part_.linear("embeddings.patch_embedding", c_.hidden, c_.channels * c_.patch * c_.patch, /*bias=*/true, 0, /*stage=*/0, "",
                   Partition::Column);
    } else {
      tensor("embeddings.patch_embedding.weight", {c_.hidden, c_.channels, c_.patch, c_.patch}, DenseKind::Convolution, 0);
      if (!clip) tensor("embeddings.patch_embedding.bias", {c_.hidden}, DenseKind::Other, 0);
    }
    tensor("embeddings.position_embedding.weight", {c_.tokens(), c_.hidden}, DenseKind::Position, 0);
    if (clip) norm("pre_layrnorm", 0);
    for (int64_t i = 0; i < c_.layers; ++i) add_encoder_layer(part_, layer_shape(c_), layer_name(i), i);
    norm("post_layernorm", c_.layers - 1);
    if (c_.has_pooling_head) add_head();
    b_.block_activations.push_back(encoder_activations(layer_shape(c_)));
  }

 private:
  // Kept because files hold it and parameters count it; no feature of a language model comes from it.
  void add_head() {
    const int64_t last = c_.layers - 1;
    tensor("head.probe", {1, 1, c_.hidden}, DenseKind::Other, last);
    tensor("head.attention.in_proj_weight", {3 * c_.hidden, c_.hidden}, DenseKind::Other, last);
    tensor("head.attention.in_proj_bias", {3 * c_.hidden}, DenseKind::Other, last);
    tensor("head.attention.out_proj.weight", {c_.hidden, c_.hidden}, DenseKind::Other, last);
    tensor("head.attention.out_proj.bias", {c_.hidden}, DenseKind::Other, last);
    norm("head.layernorm", last);
    tensor("head.mlp.fc1.weight", {c_.intermediate, c_.hidden}, DenseKind::Other, last);
    tensor("head.mlp.fc1.bias", {c_.intermediate}, DenseKind::Other, last);
    tensor("head.mlp.fc2.weight", {c_.hidden, c_.intermediate}, DenseKind::Other, last);
    tensor("head.mlp.fc2.bias", {c_.hidden}, DenseKind::Other, last);
  }

  void tensor(const std::string& name, std::vector<int64_t> shape, DenseKind kind, int64_t block) {
    part_.tensor(name, std::move(shape), kind, block);
  }
  void norm(const std::string& name, int64_t block) { part_.norm(name, c_.hidden, /*bias=*/true, block); }

  Blueprint& b_;
  const VisionConfig& c_;
  PartBuilder part_;
};

}  // namespace

void add_tower(Blueprint& blueprint, const VisionConfig& config, const std::string& path, const Prefixes& files) {
  Builder(blueprint, config, path, files).build();
}

Tower::Tower(VisionConfig config, Parts& parts, const std::string& path, int stack)
    : config_(std::move(config)), precision_(parts.precision()) {
  const auto dense = [&](const std::string& name) { return &parts.dense(path + "." + name); };
  const auto norm = [&](const std::string& name) { return LayerNorm{dense(name + ".weight"), dense(name + ".bias"), config_.eps}; };
  if (config_.kind == TowerKind::Siglip2)
    patch_layer_ = &parts.slot(path + ".embeddings.patch_embedding");
  else
    patches_ = dense("embeddings.patch_embedding.weight");
  positions_ = dense("embeddings.position_embedding.weight");
  if (config_.kind == TowerKind::Clip)
    class_token_ = dense("embeddings.class_embedding"), first_norm_ = norm("pre_layrnorm");
  else if (patches_)
    patch_bias_ = dense("embeddings.patch_embedding.bias");
  last_norm_ = norm("post_layernorm");
  for (int64_t i = 0; i < config_.layers; ++i)
    layers_.emplace_back(layer_shape(config_), parts, path + "." + layer_name(i), parts.device(stack, i));
}

at::Tensor Tower::embed(const at::Tensor& pixels) const {
  const at::ScalarType compute = precision_.compute;
  if (pixels.dim() != 4 || pixels.size(1) != config_.channels || pixels.size(2) != config_.image_size ||
      pixels.size(3) != config_.image_size)
    fail(ErrorCode::Data, "pixel_values are ", pixels.sizes(), ", the vision tower takes [pictures, ", config_.channels, ", ",
         config_.image_size, ", ", config_.image_size, "]");
  const at::Tensor x = pixels.to(layers_.front().device(), compute);
  const at::Tensor weight = patches_->value.to(compute);
  const std::optional<at::Tensor> bias = patch_bias_ ? std::optional<at::Tensor>(patch_bias_->value.to(compute)) : std::nullopt;
  at::Tensor hidden = at::conv2d(x, weight, bias, config_.patch).flatten(2).transpose(1, 2);
  if (class_token_) hidden = at::cat({class_token_->value.to(compute).expand({x.size(0), 1, config_.hidden}), hidden}, 1);
  hidden = hidden + positions_->value.to(compute);
  if (first_norm_.weight) hidden = first_norm_(hidden, compute);
  return hidden.to(precision_.residual);
}

at::Tensor Tower::positions(const Size& grid) const {
  const int64_t side = config_.side();
  const at::Tensor own = positions_->value.to(at::kFloat).view({side, side, config_.hidden}).permute({2, 0, 1}).unsqueeze(0);
  return at::_upsample_bilinear2d_aa(own, {grid.height, grid.width}, /*align_corners=*/false)
      .flatten(2)
      .transpose(1, 2)
      .to(precision_.compute);
}

at::Tensor Tower::embed(const at::Tensor& patches, const std::vector<Size>& grids) const {
  const at::Tensor hidden = patch_layer_->linear(patches.to(layers_.front().device(), precision_.compute));
  std::map<std::pair<int64_t, int64_t>, at::Tensor> made;  // by shape
  std::vector<at::Tensor> all;
  for (const Size& grid : grids) {
    at::Tensor& own = made[{grid.height, grid.width}];
    if (!own.defined()) own = positions(grid);
    all.push_back(own);
  }
  return (hidden + at::cat(all, 1)).to(precision_.residual);
}

at::Tensor Tower::finish(const at::Tensor& hidden) const { return last_norm_(hidden, precision_.compute); }

at::Tensor Tower::layer(int64_t i, const at::Tensor& hidden, const at::Tensor& lengths) const {
  return layers_.at(static_cast<size_t>(i))(hidden, attention_, lengths);
}

}  // namespace tenon::vlm
