#include "encoder_layer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/layer_norm.h>

#include <cmath>

#include "runs.h"
#include "tenon/nn/activation.h"

namespace tenon::vlm {

namespace {
// Order of execution inside a layer.
enum Stage { kQueryKeyValue, kAttentionOutput, kUp, kDown };
}  // namespace

void add_encoder_layer(PartBuilder& part, const EncoderShape& s, const std::string& name, int64_t i) {
  const std::string group = concat(part.path(), ".", name, "qkv");
  part.norm(name + s.attention_norm, s.hidden, /*bias=*/true, i);
  for (const char* projection : {"q_proj", "k_proj", "v_proj"})
    part.linear(name + "self_attn." + projection, s.hidden, s.hidden, s.key_bias || projection[0] != 'k', i, kQueryKeyValue, group,
                Partition::Column);
  part.linear(name + "self_attn.out_proj", s.hidden, s.hidden, /*bias=*/true, i, kAttentionOutput, "", Partition::Row);
  part.norm(name + s.mlp_norm, s.hidden, /*bias=*/true, i);
  part.linear(name + s.up, s.intermediate, s.hidden, /*bias=*/true, i, kUp, "", Partition::Column);
  part.linear(name + s.down, s.hidden, s.intermediate, /*bias=*/true, i, kDown, "", Partition::Row);
}

ActivationCost encoder_activations(const EncoderShape& s) {
  ActivationCost cost;
  // Both norms, q, k, v, attention's output; what goes into the activation and comes out of it. The inputs of the norms in float32.
  cost.compute = static_cast<double>(6 * s.hidden + 2 * s.intermediate);
  cost.float32 = static_cast<double>(2 * s.hidden + s.heads);
  return cost;
}

at::Tensor LayerNorm::operator()(const at::Tensor& x, at::ScalarType out) const {
  return at::layer_norm(x.to(at::kFloat), {weight->value.size(0)}, weight->value.to(at::kFloat), bias->value.to(at::kFloat), eps).to(out);
}

EncoderLayer::EncoderLayer(const EncoderShape& shape, Parts& parts, const std::string& path, at::Device device)
    : hidden_(shape.hidden), heads_(shape.heads), activation_(shape.activation), precision_(parts.precision()), device_(device) {
  const auto slot = [&](const std::string& name) { return &parts.slot(path + name); };
  const auto norm = [&](const std::string& name) {
    return LayerNorm{&parts.dense(path + name + ".weight"), &parts.dense(path + name + ".bias"), shape.eps};
  };
  attention_norm_ = norm(shape.attention_norm), mlp_norm_ = norm(shape.mlp_norm);
  q_ = slot("self_attn.q_proj"), k_ = slot("self_attn.k_proj"), v_ = slot("self_attn.v_proj"), out_ = slot("self_attn.out_proj");
  up_ = slot(shape.up), down_ = slot(shape.down);
}

at::Tensor EncoderLayer::mix(const at::Tensor& x, const nn::Attention& attention, const at::Tensor& lengths) const {
  const int64_t rows = x.size(0), positions = x.size(1), head_dim = hidden_ / heads_;
  std::vector<at::Tensor> qkv = linear_many({q_, k_, v_}, x);
  for (at::Tensor& part : qkv) part = part.view({rows, positions, heads_, head_dim});
  if (lengths.defined()) return out_->linear(attend_in_runs(attention, qkv[0], qkv[1], qkv[2], lengths));
  for (at::Tensor& part : qkv) part = part.transpose(1, 2);
  const at::Tensor mixed = attention(
      {.q = qkv[0], .k = qkv[1], .v = qkv[2], .scale = 1 / std::sqrt(static_cast<double>(head_dim)), .causal = false, .segments = {}});
  return out_->linear(mixed.transpose(1, 2).reshape({rows, positions, hidden_}));
}

at::Tensor EncoderLayer::operator()(const at::Tensor& input, const nn::Attention& attention, const at::Tensor& lengths) const {
  const at::Tensor hidden = input.to(device_);
  const at::Tensor middle = hidden + mix(attention_norm_(hidden, precision_.compute), attention, lengths);
  const at::Tensor up = up_->linear(mlp_norm_(middle, precision_.compute));
  const at::Tensor change = down_->linear(nn::activate({.gate = up, .up = {}, .name = &activation_}));
  return (middle + change).to(precision_.residual);
}

}  // namespace tenon::vlm
