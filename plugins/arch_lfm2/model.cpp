#include "model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/constant_pad_nd.h>

#include <cmath>

#include "cache.h"
#include "short_conv.h"
#include "tenon/nn/activation.h"
#include "tenon/nn/attention.h"
#include "tenon/nn/embedding.h"
#include "tenon/nn/loss.h"
#include "tenon/nn/norm.h"
#include "tenon/nn/rotary.h"

namespace tenon::lfm2 {

namespace {
constexpr const char* kRotary = "default";  // the one kind of rotary embedding here
const std::string kActivation = "silu";
const std::string kSees = "lfm2.sees";  // in the state's extras: which tokens a convolution may look at, where not all

void move_to(at::Device device, at::Tensor& tensor) {
  if (tensor.defined() && tensor.device() != device) tensor = tensor.to(device);
}

void move_to(at::Device device, State& state) {
  if (state.hidden.device() == device) return;
  for (at::Tensor* tensor : {&state.hidden, &state.positions, &state.segments, &state.key_segments}) move_to(device, *tensor);
  for (auto& [kind, tables] : state.rotary) move_to(device, tables.cos), move_to(device, tables.sin);
  for (auto& [name, tensor] : state.extras) move_to(device, tensor);
}
}  // namespace

Lfm2Model::Lfm2Model(Config config, Parts& parts) : config_(std::move(config)), parts_(parts), precision_(parts.precision()) {
  embedding_ = &parts.slot("model.embed_tokens");
  head_ = &parts.slot("lm_head");
  final_norm_ = &parts.dense("model.embedding_norm.weight");
  int64_t attentions = 0, convolutions = 0;
  for (int64_t i = 0; i < config_.layers; ++i) {
    const std::string block = concat("model.layers.", i), attention = block + ".self_attn.", conv = block + ".conv.",
                      mlp = block + ".feed_forward.";
    Layer layer{.gate = &parts.slot(mlp + "w1"),
                .up = &parts.slot(mlp + "w3"),
                .down = &parts.slot(mlp + "w2"),
                .operator_norm = &parts.dense(block + ".operator_norm.weight"),
                .mlp_norm = &parts.dense(block + ".ffn_norm.weight"),
                .device = parts.device(0, i)};
    if (config_.attends[static_cast<size_t>(i)]) {
      layer.q = &parts.slot(attention + "q_proj"), layer.k = &parts.slot(attention + "k_proj"), layer.v = &parts.slot(attention + "v_proj");
      layer.q_norm = &parts.dense(attention + "q_layernorm.weight"), layer.k_norm = &parts.dense(attention + "k_layernorm.weight");
      layer.out = &parts.slot(attention + "out_proj");
      layer.place = attentions++;
    } else {
      layer.in = &parts.slot(conv + "in_proj");
      layer.taps = &parts.dense(conv + "conv.weight");
      if (config_.conv_bias) layer.tap_bias = &parts.dense(conv + "conv.bias");
      layer.out = &parts.slot(conv + "out_proj");
      layer.place = convolutions++;
    }
    layers_.push_back(layer);
  }
  set_defaults();
}

void Lfm2Model::set_defaults() {
  seams_.embedding.set_default("embed", nn::embed);
  seams_.rotary.set_default("rotary", nn::rotary_tables);
  seams_.attention.set_default("sdpa", nn::Attention());
  seams_.norm.set_default(
      "rms_norm", [compute = precision_.compute](const NormArgs& args) { return nn::rms_norm(args.x, args.weight, args.eps, compute); });
  seams_.activation.set_default(kActivation, nn::activate);
  seams_.mlp.set_default("gated_mlp", [this](const MlpArgs& args) { return mlp(layers_.at(static_cast<size_t>(args.layer)), args.x); });
  seams_.block.set_default("hybrid_block", [this](const BlockArgs& args) { return block(*args.state, args.layer), true; });
  seams_.loss.set_default("logprobs", nn::token_logprobs);
}

State Lfm2Model::begin(const Batch& batch, Cache* cache) {
  nn::check_ids(batch.ids, embedding_->spec().out);
  auto* own = dynamic_cast<ConvCache*>(cache);
  if (cache && !own) fail(ErrorCode::Internal, "this cache was made by another model");
  Batch placed = batch;
  move_to(parts_.device(-1, 0), placed.ids);
  State state;
  nn::place_tokens(placed, own ? &own->kv() : nullptr, state);
  state.cache = own;
  state.hidden = seams_.embedding({.ids = placed.ids, .slot = embedding_, .dtype = precision_.residual});
  if (config_.attention_layers() > 0)
    state.rotary[kRotary] = seams_.rotary({.positions = state.positions,
                                           .inv_freq = config_.rotary.frequencies(state.positions),
                                           .attention_scaling = config_.rotary.attention_scaling});
  if (state.segments.defined() && config_.kernel > 1)
    state.extras[kSees] = same_segment(state.segments, state.key_segments, config_.kernel - 1);
  return state;
}

void Lfm2Model::run_block(int stack, int64_t i, State& state) {
  if (stack != 0 || i < 0 || i >= config_.layers) fail(ErrorCode::Internal, "no block ", i, " in stack ", stack);
  move_to(layers_[static_cast<size_t>(i)].device, state);
  seams_.block({.state = &state, .stack = stack, .layer = i});
}

void Lfm2Model::block(State& state, int64_t i) const {
  const Layer& layer = layers_.at(static_cast<size_t>(i));
  const at::Tensor x = norm(state.hidden, *layer.operator_norm);
  const at::Tensor mixed = layer.in ? convolution(layer, x, state) : attention(layer, x, state, i);
  const at::Tensor hidden = (state.hidden + mixed).to(precision_.residual);
  const at::Tensor change = seams_.mlp({.x = norm(hidden, *layer.mlp_norm), .layer = i, .state = &state});
  state.hidden = (hidden + change).to(precision_.residual);
}

at::Tensor Lfm2Model::attention(const Layer& layer, const at::Tensor& x, const State& state, int64_t i) const {
  const int64_t batch = x.size(0), tokens = x.size(1);
  std::vector<at::Tensor> qkv = linear_many({layer.q, layer.k, layer.v}, x);
  for (at::Tensor& part : qkv) part = part.unflatten(-1, {part.size(-1) / config_.head_dim, config_.head_dim});
  const Rotary& rotary = state.rotary.at(kRotary);
  const at::Tensor q = nn::apply_rotary(norm(qkv[0], *layer.q_norm), rotary, /*may_overwrite=*/true).transpose(1, 2);
  at::Tensor k = nn::apply_rotary(norm(qkv[1], *layer.k_norm), rotary, /*may_overwrite=*/true).transpose(1, 2);
  at::Tensor v = qkv[2].transpose(1, 2);
  if (state.cache) std::tie(k, v) = static_cast<ConvCache*>(state.cache)->kv().append(layer.place, k, v);
  const at::Tensor mixed = seams_.attention({.q = q,
                                             .k = k,
                                             .v = v,
                                             .scale = 1 / std::sqrt(static_cast<double>(config_.head_dim)),
                                             .past = state.past,
                                             .segments = state.segments,
                                             .key_segments = state.key_segments,
                                             .layer = i});
  return layer.out->linear(mixed.transpose(1, 2).reshape({batch, tokens, config_.heads * config_.head_dim}));
}

// Two gates around it, both from the same input: one before the convolution, one behind.
at::Tensor Lfm2Model::convolution(const Layer& layer, const at::Tensor& x, const State& state) const {
  const at::Tensor parts = layer.in->linear(x);
  const auto part = [&](int64_t i) { return parts.narrow(-1, i * config_.hidden, config_.hidden); };
  const at::Tensor gated = part(0) * part(2);
  const at::Tensor wide = state.cache ? static_cast<ConvCache*>(state.cache)->extend(layer.place, gated)
                                      : at::constant_pad_nd(gated, {0, 0, config_.kernel - 1, 0}, 0);
  const auto sees = state.extras.find(kSees);
  const at::Tensor mixed = short_conv(wide, layer.taps->value, layer.tap_bias ? layer.tap_bias->value : at::Tensor(),
                                      sees == state.extras.end() ? at::Tensor() : sees->second);
  return layer.out->linear(part(1) * mixed);
}

at::Tensor Lfm2Model::mlp(const Layer& layer, const at::Tensor& x) const {
  std::vector<at::Tensor> gate_up = linear_many({layer.gate, layer.up}, x);
  ActivationArgs args{.gate = std::move(gate_up[0]), .up = std::move(gate_up[1]), .name = &kActivation};
  const at::Tensor product = seams_.activation(args);
  args = {};
  return layer.down->linear(product);
}

at::Tensor Lfm2Model::norm(const at::Tensor& x, const Dense& weight) const {
  // A patch may answer in another dtype.
  return seams_.norm({.x = x, .weight = weight.value, .eps = config_.eps, .path = &weight.spec.path}).to(precision_.compute);
}

at::Tensor Lfm2Model::finish(State& state) {
  move_to(parts_.device(-1, 1), state.hidden);
  const at::Tensor hidden = norm(state.hidden, *final_norm_);
  if (state.cache) static_cast<ConvCache*>(state.cache)->commit(hidden.size(1));
  return hidden;
}

at::Tensor Lfm2Model::logits(const at::Tensor& hidden) { return head_->linear(hidden.to(parts_.device(-1, 1))).to(at::kFloat); }

at::Tensor Lfm2Model::token_logprobs(const at::Tensor& hidden, const at::Tensor& targets) {
  const at::Device device = parts_.device(-1, 1);
  return seams_.loss({.hidden = hidden.to(device), .targets = targets.to(device), .head = head_});
}

std::unique_ptr<Cache> Lfm2Model::make_cache(int64_t batch, int64_t capacity) {
  std::vector<nn::KvCache::Layer> attentions;
  std::vector<at::Device> convolutions;
  for (const Layer& layer : layers_) {
    if (layer.in)
      convolutions.push_back(layer.device);
    else
      attentions.push_back({.kv_heads = config_.kv_heads, .head_dim = config_.head_dim, .device = layer.device});
  }
  return std::make_unique<ConvCache>(attentions, convolutions, config_.hidden, config_.kernel - 1, batch, capacity, precision_.compute);
}

}  // namespace tenon::lfm2
