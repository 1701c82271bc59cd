#include "model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <cmath>

#include "tenon/nn/activation.h"
#include "tenon/nn/attention.h"
#include "tenon/nn/embedding.h"
#include "tenon/nn/loss.h"
#include "tenon/nn/norm.h"
#include "tenon/nn/rotary.h"

namespace tenon::llama {

namespace {
constexpr const char* kRotary = "default";  // the one kind of rotary embedding here

void move_to(at::Device device, at::Tensor& tensor) {
  if (tensor.defined() && tensor.device() != device) tensor = tensor.to(device);
}

void move_to(at::Device device, State& state) {
  if (state.hidden.device() == device) return;
  for (at::Tensor* tensor : {&state.hidden, &state.positions, &state.segments, &state.key_segments}) move_to(device, *tensor);
  for (auto& [kind, tables] : state.rotary) move_to(device, tables.cos), move_to(device, tables.sin);
  for (auto& [name, tensor] : state.extras) move_to(device, tensor);
}

// hidden + change in the residual dtype. The first sum of a block makes a new tensor; the second may write over it where autograd does not need it.
at::Tensor add(const at::Tensor& hidden, const at::Tensor& change, at::ScalarType residual, bool own) {
  if (own && !at::GradMode::is_enabled() && hidden.scalar_type() == residual) return at::Tensor(hidden).add_(change);
  return (hidden + change).to(residual);
}
}  // namespace

DecoderModel::DecoderModel(DecoderConfig config, Parts& parts) : config_(std::move(config)), parts_(parts), precision_(parts.precision()) {
  embedding_ = &parts.slot("model.embed_tokens");
  head_ = &parts.slot("lm_head");
  final_norm_ = &parts.dense("model.norm.weight");
  for (int64_t i = 0; i < config_.layers; ++i) {
    const std::string block = concat("model.layers.", i), attention = block + ".self_attn.", mlp = block + ".mlp.";
    const bool qk_norm = config_.family->qk_norm;
    layers_.push_back({.q = &parts.slot(attention + "q_proj"),
                       .k = &parts.slot(attention + "k_proj"),
                       .v = &parts.slot(attention + "v_proj"),
                       .o = &parts.slot(attention + "o_proj"),
                       .gate = &parts.slot(mlp + "gate_proj"),
                       .up = &parts.slot(mlp + "up_proj"),
                       .down = &parts.slot(mlp + "down_proj"),
                       .input_norm = &parts.dense(block + ".input_layernorm.weight"),
                       .post_attention_norm = &parts.dense(block + ".post_attention_layernorm.weight"),
                       .q_norm = qk_norm ? &parts.dense(attention + "q_norm.weight") : nullptr,
                       .k_norm = qk_norm ? &parts.dense(attention + "k_norm.weight") : nullptr,
                       .device = parts.device(0, i),
                       .window = config_.windows[static_cast<size_t>(i)]});
  }
  set_defaults();
}

void DecoderModel::set_defaults() {
  seams_.embedding.set_default("embed", nn::embed);
  seams_.rotary.set_default("rotary", nn::rotary_tables);
  seams_.attention.set_default("sdpa", nn::Attention());
  seams_.norm.set_default(
      "rms_norm", [compute = precision_.compute](const NormArgs& args) { return nn::rms_norm(args.x, args.weight, args.eps, compute); });
  seams_.activation.set_default(config_.activation, nn::activate);
  seams_.mlp.set_default("gated_mlp", [this](const MlpArgs& args) { return mlp(layers_.at(static_cast<size_t>(args.layer)), args.x); });
  seams_.block.set_default("decoder_block", [this](const BlockArgs& args) { return block(*args.state, args.layer), true; });
  seams_.loss.set_default("logprobs", nn::token_logprobs);
}

State DecoderModel::begin(const Batch& batch, Cache* cache) {
  nn::check_ids(batch.ids, embedding_->spec().out);
  auto* kv_cache = dynamic_cast<nn::KvCache*>(cache);
  if (cache && !kv_cache) fail(ErrorCode::Internal, "this cache was made by another model");
  Batch placed = batch;
  const at::Device device = parts_.device(-1, 0);
  move_to(device, placed.ids);
  State state;
  nn::place_tokens(placed, kv_cache, state);
  state.hidden = seams_.embedding({.ids = placed.ids, .slot = embedding_, .dtype = precision_.residual});
  state.rotary[kRotary] = seams_.rotary({.positions = state.positions,
                                         .inv_freq = config_.rotary.frequencies(state.positions),
                                         .attention_scaling = config_.rotary.attention_scaling});
  return state;
}

void DecoderModel::run_block(int stack, int64_t i, State& state) {
  if (stack != 0 || i < 0 || i >= config_.layers) fail(ErrorCode::Internal, "no block ", i, " in stack ", stack);
  move_to(layers_[static_cast<size_t>(i)].device, state);
  seams_.block({.state = &state, .stack = stack, .layer = i});
}

void DecoderModel::block(State& state, int64_t i) const {
  const Layer& layer = layers_.at(static_cast<size_t>(i));
  at::Tensor hidden = add(state.hidden, attention(layer, norm(state.hidden, *layer.input_norm), state, i), precision_.residual, false);
  state.hidden = add(hidden, seams_.mlp({.x = norm(hidden, *layer.post_attention_norm), .layer = i}), precision_.residual, true);
}

at::Tensor DecoderModel::attention(const Layer& layer, const at::Tensor& x, const State& state, int64_t i) const {
  const int64_t batch = x.size(0), tokens = x.size(1);
  std::vector<at::Tensor> qkv = linear_many({layer.q, layer.k, layer.v}, x);
  at::Tensor q = qkv[0].view({batch, tokens, config_.heads, config_.head_dim});
  at::Tensor k = qkv[1].view({batch, tokens, config_.kv_heads, config_.head_dim});
  at::Tensor v = qkv[2].view({batch, tokens, config_.kv_heads, config_.head_dim}).transpose(1, 2);
  qkv.clear();
  if (layer.q_norm) q = norm(q, *layer.q_norm), k = norm(k, *layer.k_norm);
  const Rotary& rotary = state.rotary.at(kRotary);
  q = nn::apply_rotary(q, rotary, /*may_overwrite=*/true).transpose(1, 2);
  k = nn::apply_rotary(k, rotary, /*may_overwrite=*/true).transpose(1, 2);
  if (state.cache) std::tie(k, v) = static_cast<nn::KvCache*>(state.cache)->append(i, k, v);
  const at::Tensor mixed = seams_.attention({.q = q,
                                             .k = k,
                                             .v = v,
                                             .scale = 1 / std::sqrt(static_cast<double>(config_.head_dim)),
                                             .past = state.past,
                                             .window = layer.window,
                                             .segments = state.segments,
                                             .key_segments = state.key_segments,
                                             .layer = i});
  return layer.o->linear(mixed.transpose(1, 2).reshape({batch, tokens, config_.heads * config_.head_dim}));
}

at::Tensor DecoderModel::mlp(const Layer& layer, const at::Tensor& x) const {
  std::vector<at::Tensor> gate_up = linear_many({layer.gate, layer.up}, x);
  ActivationArgs args{.gate = std::move(gate_up[0]), .up = std::move(gate_up[1]), .name = &config_.activation};
  const at::Tensor product = seams_.activation(args);
  args = {};
  return layer.down->linear(product);
}

at::Tensor DecoderModel::norm(const at::Tensor& x, const Dense& weight) const {
  // A patch may answer in another dtype.
  return seams_.norm({.x = x, .weight = weight.value, .eps = config_.eps, .path = &weight.spec.path}).to(precision_.compute);
}

at::Tensor DecoderModel::finish(State& state) {
  move_to(parts_.device(-1, 1), state.hidden);
  at::Tensor hidden = norm(state.hidden, *final_norm_);
  if (state.cache) static_cast<nn::KvCache*>(state.cache)->commit(hidden.size(1));
  return hidden;
}

at::Tensor DecoderModel::logits(const at::Tensor& hidden) { return head_->linear(hidden.to(parts_.device(-1, 1))).to(at::kFloat); }

at::Tensor DecoderModel::token_logprobs(const at::Tensor& hidden, const at::Tensor& targets) {
  const at::Device device = parts_.device(-1, 1);
  return seams_.loss({.hidden = hidden.to(device), .targets = targets.to(device), .head = head_});
}

std::unique_ptr<Cache> DecoderModel::make_cache(int64_t batch, int64_t capacity) {
  std::vector<nn::KvCache::Layer> layers;
  for (const Layer& layer : layers_) layers.push_back({.kv_heads = config_.kv_heads, .head_dim = config_.head_dim, .device = layer.device});
  return std::make_unique<nn::KvCache>(layers, batch, capacity, precision_.compute);
}

}  // namespace tenon::llama
