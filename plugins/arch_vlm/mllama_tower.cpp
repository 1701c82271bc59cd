#include "mllama_tower.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/stack.h>

#include <cmath>

#include "tenon/nn/activation.h"

namespace tenon::vlm {

namespace {

// Order of execution inside a layer.
enum Stage { kQueryKeyValue, kAttentionOutput, kUp, kDown };

constexpr double kOuterEps = 1e-5;  // of the norms outside the layers; no config has it

void add_layers(Blueprint& b, const MllamaVisionConfig& c, const std::string& path, const Prefixes& files, const std::string& name,
                int64_t count, bool is_gated) {
  PartBuilder part(b, path, files, name + ".layers", count, "vision");
  for (int64_t i = 0; i < count; ++i) {
    const std::string layer = concat(name, ".layers.", i, "."), group = concat(path, ".", layer, "qkv");
    part.norm(layer + "input_layernorm", c.hidden, /*bias=*/true, i);
    for (const char* projection : {"q_proj", "k_proj", "v_proj"})
      part.linear(layer + "self_attn." + projection, c.hidden, c.hidden, /*bias=*/false, i, kQueryKeyValue, group, Partition::Column);
    part.linear(layer + "self_attn.o_proj", c.hidden, c.hidden, /*bias=*/false, i, kAttentionOutput, "", Partition::Row);
    part.norm(layer + "post_attention_layernorm", c.hidden, /*bias=*/true, i);
    part.linear(layer + "mlp.fc1", c.intermediate, c.hidden, /*bias=*/true, i, kUp, "", Partition::Column);
    part.linear(layer + "mlp.fc2", c.hidden, c.intermediate, /*bias=*/true, i, kDown, "", Partition::Row);
    if (is_gated)
      for (const char* gate : {"gate_attn", "gate_ffn"}) part.tensor(layer + gate, {1}, DenseKind::Other, i);
  }
  const auto tile_table = [&](const std::string& table) {
    part.tensor(table + ".embedding.weight", {c.aspect_ratios + 1, c.max_tiles * c.hidden}, DenseKind::Position, 0);
    part.tensor(table + ".gate", {1}, DenseKind::Other, 0);
  };
  if (is_gated) {
    part.norm("layernorm_post", c.hidden, /*bias=*/true, 0);
    tile_table("post_tile_positional_embedding");
  } else {
    part.tensor("class_embedding", {c.hidden}, DenseKind::Other, 0);
    part.tensor("patch_embedding.weight", {c.hidden, c.channels, c.patch, c.patch}, DenseKind::Convolution, 0);
    tile_table("pre_tile_positional_embedding");
    part.tensor("gated_positional_embedding.gate", {1}, DenseKind::Other, 0);
    part.tensor("gated_positional_embedding.embedding", {c.tokens(), c.hidden}, DenseKind::Position, 0);
    part.tensor("gated_positional_embedding.tile_embedding.weight", {c.aspect_ratios + 1, c.max_tiles * c.tokens() * c.hidden},
                DenseKind::Position, 0);
    part.norm("layernorm_pre", c.hidden, /*bias=*/true, 0);
  }
  ActivationCost cost;
  // Both norms, q, k, v, attention's output; what goes into the activation and comes out of it; what gates scale. The inputs of the norms in float32.
  cost.compute = static_cast<double>(6 * c.hidden + 2 * c.intermediate + (is_gated ? 2 * c.hidden : 0));
  cost.float32 = static_cast<double>(2 * c.hidden + c.heads);
  b.block_activations.push_back(cost);
}

}  // namespace

void add_mllama_tower(Blueprint& blueprint, const MllamaVisionConfig& config, const std::string& path, const Prefixes& files) {
  add_layers(blueprint, config, path, files, "transformer", config.layers, /*is_gated=*/false);
  add_layers(blueprint, config, path, files, "global_transformer", config.global_layers, /*is_gated=*/true);
}

MllamaTower::MllamaTower(MllamaVisionConfig config, Parts& parts, const std::string& path, int stack)
    : config_(std::move(config)), precision_(parts.precision()) {
  const auto dense = [&](const std::string& name) { return &parts.dense(path + "." + name); };
  const auto norm = [&](const std::string& name) { return Norm{dense(name + ".weight"), dense(name + ".bias")}; };
  const auto table = [&](const std::string& name) { return TileTable{dense(name + ".embedding.weight"), dense(name + ".gate")}; };
  patches_ = dense("patch_embedding.weight");
  class_token_ = dense("class_embedding");
  positions_ = dense("gated_positional_embedding.embedding");
  position_gate_ = dense("gated_positional_embedding.gate");
  tile_positions_ = dense("gated_positional_embedding.tile_embedding.weight");
  before_ = table("pre_tile_positional_embedding"), after_ = table("post_tile_positional_embedding");
  first_norm_ = norm("layernorm_pre"), middle_norm_ = norm("layernorm_post");
  for (int64_t i = 0; i < config_.layers; ++i)
    layers_.push_back(find_layer(parts, concat(path, ".transformer.layers.", i, "."), parts.device(stack, i), false));
  for (int64_t i = 0; i < config_.global_layers; ++i)
    global_layers_.push_back(find_layer(parts, concat(path, ".global_transformer.layers.", i, "."), parts.device(stack + 1, i), true));
}

MllamaTower::Layer MllamaTower::find_layer(Parts& parts, const std::string& name, at::Device device, bool is_gated) const {
  const auto slot = [&](const char* part) { return &parts.slot(name + part); };
  const auto norm = [&](const std::string& part) {
    return Norm{&parts.dense(name + part + ".weight"), &parts.dense(name + part + ".bias")};
  };
  Layer layer{.before_attention = norm("input_layernorm"),
              .before_mlp = norm("post_attention_layernorm"),
              .q = slot("self_attn.q_proj"),
              .k = slot("self_attn.k_proj"),
              .v = slot("self_attn.v_proj"),
              .out = slot("self_attn.o_proj"),
              .fc1 = slot("mlp.fc1"),
              .fc2 = slot("mlp.fc2"),
              .device = device};
  if (is_gated) layer.attention_gate = &parts.dense(name + "gate_attn"), layer.mlp_gate = &parts.dense(name + "gate_ffn");
  return layer;
}

at::Tensor MllamaTower::norm(const at::Tensor& x, const Norm& norm, double eps, at::ScalarType out) const {
  return at::layer_norm(x.to(at::kFloat), {config_.hidden}, norm.weight->value.to(at::kFloat), norm.bias->value.to(at::kFloat), eps)
      .to(out);
}

at::Tensor MllamaTower::gate(const Dense& gate, at::Device device) const { return gate.value.to(device, precision_.compute).tanh(); }

// [pictures, tiles, tokens, hidden], or one token for all of a tile.
at::Tensor MllamaTower::tile_rows(const TileTable& table, const at::Tensor& ids, int64_t tokens) const {
  const at::Tensor rows = at::embedding(table.rows->value, ids.to(table.rows->value.device())).to(precision_.compute);
  return rows.view({-1, config_.max_tiles, tokens, config_.hidden}) * gate(*table.gate, rows.device());
}

at::Tensor MllamaTower::embed(const TilePictures& pictures) const {
  const at::ScalarType compute = precision_.compute;
  const int64_t count = pictures.pixels.size(0), tiles = config_.max_tiles, hidden = config_.hidden, tokens = config_.tokens();
  const at::Device device = layers_.front().device;
  const at::Tensor pixels = pictures.pixels.flatten(0, 1).to(device, compute);
  at::Tensor x = at::conv2d(pixels, patches_->value.to(compute), {}, config_.patch).flatten(2).transpose(1, 2);
  x = x.reshape({count, tiles, tokens - 1, hidden}) + tile_rows(before_, pictures.ids, 1);
  x = at::cat({class_token_->value.to(compute).expand({count, tiles, 1, hidden}), x}, 2);
  const at::Tensor places = gate(*position_gate_, device);
  x = x + (1 - places) * positions_->value.to(compute) + tile_rows({tile_positions_, position_gate_}, pictures.ids, tokens);
  x = norm(x, first_norm_, kOuterEps, compute).flatten(1, 2);
  return at::constant_pad_nd(x, {0, 0, 0, tiles * config_.padding()}, 0).to(precision_.residual);
}

at::Tensor MllamaTower::between(const at::Tensor& hidden, const at::Tensor& ids) const {
  const at::Device device = global_layers_.front().device;
  const at::Tensor rows = tile_rows(after_, ids, 1), x = norm(hidden.to(device), middle_norm_, kOuterEps, precision_.compute);
  const at::Tensor tokens = rows.expand({-1, -1, config_.tokens(), -1}).flatten(1, 2);
  const at::Tensor padding = rows.expand({-1, -1, config_.padding(), -1}).flatten(1, 2);
  return (x + at::cat({tokens, padding}, 1)).to(precision_.residual);
}

// Who is part of a picture sees everything, empty tiles and padding too; those see the picture alone, and not each other.
at::Tensor MllamaTower::attention(const Layer& layer, const at::Tensor& x, const std::vector<int64_t>& tiles) const {
  const int64_t pictures = x.size(0), places = x.size(1), head_dim = config_.hidden / config_.heads;
  std::vector<at::Tensor> qkv = linear_many({layer.q, layer.k, layer.v}, x);
  for (at::Tensor& part : qkv) part = part.view({pictures, places, config_.heads, head_dim}).transpose(1, 2);
  const double scale = 1 / std::sqrt(static_cast<double>(head_dim));
  const auto attend = [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    return attention_({.q = q, .k = k, .v = v, .scale = scale, .causal = false, .segments = {}});
  };
  std::vector<at::Tensor> groups;  // of pictures with as many tiles
  for (int64_t first = 0, last = 0; first < pictures; first = last) {
    const int64_t count = tiles[static_cast<size_t>(first)], inside = count * config_.tokens();
    while (last < pictures && tiles[static_cast<size_t>(last)] == count) ++last;
    const auto cut = [&](const at::Tensor& part) { return part.narrow(0, first, last - first); };
    const at::Tensor q = cut(qkv[0]), k = cut(qkv[1]), v = cut(qkv[2]);
    groups.push_back(at::cat({attend(q.narrow(2, 0, inside), k, v),
                              attend(q.narrow(2, inside, places - inside), k.narrow(2, 0, inside), v.narrow(2, 0, inside))},
                             2));
  }
  const at::Tensor mixed = groups.size() == 1 ? groups[0] : at::cat(groups);
  return layer.out->linear(mixed.transpose(1, 2).reshape({pictures, places, config_.hidden}));
}

at::Tensor MllamaTower::run(const Layer& layer, const at::Tensor& input, const std::vector<int64_t>& tiles) const {
  const at::Tensor hidden = input.to(layer.device);
  at::Tensor change = attention(layer, norm(hidden, layer.before_attention, config_.eps, precision_.compute), tiles);
  if (layer.attention_gate) change = gate(*layer.attention_gate, layer.device) * change;
  const at::Tensor middle = hidden + change;
  const at::Tensor up = layer.fc1->linear(norm(middle, layer.before_mlp, config_.eps, precision_.compute));
  change = layer.fc2->linear(nn::activate({.gate = up, .up = {}, .name = &config_.activation}));
  if (layer.mlp_gate) change = gate(*layer.mlp_gate, layer.device) * change;
  return (middle + change).to(precision_.residual);
}

at::Tensor MllamaTower::layer(int64_t i, const at::Tensor& hidden, const std::vector<int64_t>& tiles) const {
  return run(layers_.at(static_cast<size_t>(i)), hidden, tiles);
}

at::Tensor MllamaTower::global_layer(int64_t i, const at::Tensor& hidden, const std::vector<int64_t>& tiles) const {
  return run(global_layers_.at(static_cast<size_t>(i)), hidden, tiles);
}

at::Tensor MllamaTower::features(const at::Tensor& last, const std::vector<at::Tensor>& kept) const {
  const int64_t tokens = config_.picture_tokens();
  const at::Tensor end = last.narrow(1, 0, tokens).to(precision_.compute);
  std::vector<at::Tensor> earlier;
  for (const at::Tensor& state : kept) earlier.push_back(state.narrow(1, 0, tokens).to(end.device(), precision_.compute));
  // Feature by feature, not layer by layer.
  return at::cat({end, at::stack(earlier, -1).flatten(2)}, -1);
}

}  // namespace tenon::vlm
