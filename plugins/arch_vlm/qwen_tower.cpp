#include "qwen_tower.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/tensor.h>

#include <cmath>

#include "runs.h"
#include "tenon/nn/activation.h"
#include "tenon/nn/linear.h"
#include "tenon/nn/norm.h"
#include "tenon/nn/rotary.h"

namespace tenon::vlm {

namespace {

// Order of execution inside a layer; the merger runs after the last one.
enum Stage { kQueryKeyValue, kAttentionOutput, kUp, kDown, kMergerUp, kMergerDown };

constexpr double kEps = 1e-6;  // of all norms; no config has it
const std::string kMergerActivation = "gelu";

// Axial frequencies: a quarter of a head for rows, a quarter for columns; angles twice, for both halves.
std::pair<at::Tensor, at::Tensor> axial_tables(const std::vector<Grid>& grids, const QwenVisionConfig& c) {
  const int64_t half = c.head_dim() / 2;
  std::vector<float> frequencies;
  for (int64_t i = 0; i < half; i += 2)
    frequencies.push_back(1.0f / std::pow(static_cast<float>(c.rope_theta), static_cast<float>(i) / static_cast<float>(half)));
  const at::Tensor angles = patch_positions(grids, c.merge).to(at::kFloat).unsqueeze(2) * at::tensor(frequencies, at::kFloat);
  const at::Tensor both = at::cat({angles.select(0, 0), angles.select(0, 1)}, 1);  // [patches, half]
  const at::Tensor doubled = at::cat({both, both}, 1).unsqueeze(0);
  return {at::cos(doubled), at::sin(doubled)};
}

// Rows of [patches, ...] in groups of merge * merge, sorted as `order` says.
at::Tensor sorted(const at::Tensor& rows, const std::vector<int64_t>& order, int64_t unit) {
  if (order.empty()) return rows;
  const at::Tensor index = at::tensor(order, at::kLong).to(rows.device());
  return rows.reshape({rows.size(0) / unit, unit, rows.size(1)}).index_select(0, index).reshape(rows.sizes());
}

}  // namespace

void add_qwen_tower(Blueprint& blueprint, const QwenVisionConfig& c, const std::string& path, const Prefixes& files) {
  PartBuilder part(blueprint, path, files, "blocks", c.layers, "vision");
  const bool norm_bias = !c.is_windowed;
  part.tensor("patch_embed.proj.weight", {c.hidden, c.channels, c.temporal_patch, c.patch, c.patch}, DenseKind::Convolution, 0);
  for (int64_t i = 0; i < c.layers; ++i) {
    const std::string layer = concat("blocks.", i, ".");
    part.norm(layer + "norm1", c.hidden, norm_bias, i);
    part.linear(layer + "attn.qkv", 3 * c.hidden, c.hidden, true, i, kQueryKeyValue, "", Partition::Replicate);
    part.linear(layer + "attn.proj", c.hidden, c.hidden, true, i, kAttentionOutput, "", Partition::Row);
    part.norm(layer + "norm2", c.hidden, norm_bias, i);
    if (c.is_windowed) {
      const std::string group = concat(path, ".", layer, "gate_up");
      part.linear(layer + "mlp.gate_proj", c.intermediate, c.hidden, true, i, kUp, group, Partition::Column);
      part.linear(layer + "mlp.up_proj", c.intermediate, c.hidden, true, i, kUp, group, Partition::Column);
      part.linear(layer + "mlp.down_proj", c.hidden, c.intermediate, true, i, kDown, "", Partition::Row);
    } else {
      part.linear(layer + "mlp.fc1", c.intermediate, c.hidden, true, i, kUp, "", Partition::Column);
      part.linear(layer + "mlp.fc2", c.hidden, c.intermediate, true, i, kDown, "", Partition::Row);
    }
  }
  const int64_t last = c.layers - 1, merged = c.hidden * c.merge * c.merge;
  part.set_part("projector");
  part.norm("merger.ln_q", c.hidden, norm_bias, last);
  part.linear("merger.mlp.0", merged, merged, true, last, kMergerUp, "", Partition::Column);
  part.linear("merger.mlp.2", c.out, merged, true, last, kMergerDown, "", Partition::Row);
  ActivationCost cost;
  // Both norms, q, k, v before and q, k after rotation, attention's output; what goes into the activation and comes out of it. The inputs of the norms in
  // float32.
  cost.compute = static_cast<double>(8 * c.hidden + (c.is_windowed ? 3 : 2) * c.intermediate);
  cost.float32 = static_cast<double>(2 * c.hidden + c.heads);
  blueprint.block_activations.push_back(cost);
}

QwenTower::QwenTower(QwenVisionConfig config, Parts& parts, const std::string& path, int stack)
    : config_(std::move(config)), precision_(parts.precision()) {
  const auto dense = [&](const std::string& name) { return &parts.dense(path + "." + name); };
  const auto slot = [&](const std::string& name) { return &parts.slot(path + "." + name); };
  const auto norm = [&](const std::string& name) {
    return Norm{dense(name + ".weight"), config_.is_windowed ? nullptr : dense(name + ".bias")};
  };
  patches_ = dense("patch_embed.proj.weight");
  for (int64_t i = 0; i < config_.layers; ++i) {
    const std::string name = concat("blocks.", i, ".");
    Layer layer{.before_attention = norm(name + "norm1"),
                .before_mlp = norm(name + "norm2"),
                .qkv = slot(name + "attn.qkv"),
                .out = slot(name + "attn.proj"),
                .device = parts.device(stack, i)};
    if (config_.is_windowed)
      layer.gate = slot(name + "mlp.gate_proj"), layer.up = slot(name + "mlp.up_proj"), layer.down = slot(name + "mlp.down_proj");
    else
      layer.up = slot(name + "mlp.fc1"), layer.down = slot(name + "mlp.fc2");
    layers_.push_back(layer);
  }
  merger_norm_ = norm("merger.ln_q");
  merger_up_ = slot("merger.mlp.0"), merger_down_ = slot("merger.mlp.2");
}

TowerLayout QwenTower::layout(const std::vector<Grid>& grids) const {
  TowerLayout layout;
  std::tie(layout.cos, layout.sin) = axial_tables(grids, config_);
  layout.frames = at::tensor(frame_lengths(grids), at::kLong);
  if (!config_.is_windowed) return layout;
  Windows windows = sort_into_windows(grids, config_.merge, config_.window);
  layout.order = std::move(windows.order);
  layout.windows = at::tensor(windows.lengths, at::kLong);
  for (at::Tensor* table : {&layout.cos, &layout.sin})
    *table = sorted(table->squeeze(0), layout.order, config_.merge * config_.merge).unsqueeze(0);
  return layout;
}

at::Tensor QwenTower::embed(const at::Tensor& patches, const TowerLayout& layout) const {
  const at::Tensor x = patches.to(layers_.front().device, precision_.compute);
  const at::Tensor hidden = nn::linear(x, patches_->value.to(precision_.compute).reshape({config_.hidden, config_.patch_width()}));
  return sorted(hidden, layout.order, config_.merge * config_.merge).unsqueeze(0).to(precision_.residual);
}

at::Tensor QwenTower::norm(const at::Tensor& x, const Norm& norm) const {
  if (!norm.bias) return nn::rms_norm(x, norm.weight->value, kEps, precision_.compute);
  return at::layer_norm(x.to(at::kFloat), {config_.hidden}, norm.weight->value.to(at::kFloat), norm.bias->value.to(at::kFloat), kEps)
      .to(precision_.compute);
}

at::Tensor QwenTower::attention(const Layer& layer, const at::Tensor& x, const TowerLayout& layout, const at::Tensor& lengths) const {
  const int64_t heads = config_.heads, width = config_.head_dim();
  const at::Tensor qkv = layer.qkv->linear(x).view({1, x.size(1), 3, heads, width});
  const Rotary rotary{layout.cos.to(x.device()), layout.sin.to(x.device())};
  const at::Tensor q = nn::apply_rotary(qkv.select(2, 0), rotary), k = nn::apply_rotary(qkv.select(2, 1), rotary), v = qkv.select(2, 2);
  return layer.out->linear(attend_in_runs(attention_, q, k, v, lengths));
}

at::Tensor QwenTower::mlp(const Layer& layer, const at::Tensor& x) const {
  if (!layer.gate) return layer.down->linear(nn::activate({.gate = layer.up->linear(x), .up = {}, .name = &config_.activation}));
  const std::vector<at::Tensor> gate_up = linear_many({layer.gate, layer.up}, x);
  return layer.down->linear(nn::activate({.gate = gate_up[0], .up = gate_up[1], .name = &config_.activation}));
}

at::Tensor QwenTower::layer(int64_t i, const at::Tensor& input, const TowerLayout& layout) const {
  const Layer& layer = layers_.at(static_cast<size_t>(i));
  const at::Tensor hidden = input.to(layer.device);
  const at::Tensor& lengths = config_.sees_all[static_cast<size_t>(i)] ? layout.frames : layout.windows;
  const at::Tensor middle = hidden + attention(layer, norm(hidden, layer.before_attention), layout, lengths);
  return (middle + mlp(layer, norm(middle, layer.before_mlp))).to(precision_.residual);
}

at::Tensor QwenTower::merge(const at::Tensor& hidden) const {
  const int64_t unit = config_.merge * config_.merge;
  const at::Tensor x = norm(hidden, merger_norm_).reshape({1, hidden.size(1) / unit, unit * config_.hidden});
  return merger_down_->linear(nn::activate({.gate = merger_up_->linear(x), .up = {}, .name = &kMergerActivation}));
}

}  // namespace tenon::vlm
