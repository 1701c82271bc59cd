#include "model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/scalar_tensor.h>

#include <cmath>

#include "recalling_cache.h"
#include "tenon/nn/activation.h"
#include "tenon/nn/attention.h"
#include "tenon/nn/embedding.h"
#include "tenon/nn/experts.h"
#include "tenon/nn/linear.h"
#include "tenon/nn/loss.h"
#include "tenon/nn/norm.h"
#include "tenon/nn/rotary.h"

namespace tenon::llama {

namespace {
constexpr const char* kRotary = "default";  // the one kind of rotary embedding here
constexpr const char* kAsked = "asked";     // how many of the tokens the batch had, where more went in with them

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
  const Family& family = *config_.family;
  for (int64_t i = 0; i < config_.layers; ++i) {
    const std::string block = concat("model.layers.", i), attention = block + ".self_attn.", mlp = block + ".mlp.";
    Layer layer{.o = &parts.slot(attention + "o_proj"),
                .attention_norm = &parts.dense(block + ".input_layernorm.weight"),
                .device = parts.device(0, i),
                .window = config_.windows[static_cast<size_t>(i)],
                .rotates = config_.rotates[static_cast<size_t>(i)]};
    if (family.fused)
      layer.qkv = &parts.slot(attention + "qkv_proj");
    else
      layer.q = &parts.slot(attention + "q_proj"), layer.k = &parts.slot(attention + "k_proj"), layer.v = &parts.slot(attention + "v_proj");
    if (config_.mixes[static_cast<size_t>(i)]) {
      layer.router = &parts.dense(mlp + "gate.weight");
      layer.gate_up = &parts.slot(mlp + "experts.gate_up_proj"), layer.down = &parts.slot(mlp + "experts.down_proj");
    } else {
      layer.down = &parts.slot(mlp + "down_proj");
      if (family.fused)
        layer.gate_up = &parts.slot(mlp + "gate_up_proj");
      else
        layer.gate = &parts.slot(mlp + "gate_proj"), layer.up = &parts.slot(mlp + "up_proj");
    }
    if (family.qk_norm) layer.q_norm = &parts.dense(attention + "q_norm.weight"), layer.k_norm = &parts.dense(attention + "k_norm.weight");
    Dense& post_attention = parts.dense(block + ".post_attention_layernorm.weight");
    if (family.norms == Norms::Before) {
      layer.mlp_norm = &post_attention;
    } else {
      layer.attention_out_norm = &post_attention;
      layer.mlp_norm = &parts.dense(block + ".pre_feedforward_layernorm.weight");
      layer.mlp_out_norm = &parts.dense(block + ".post_feedforward_layernorm.weight");
    }
    layers_.push_back(layer);
  }
  set_defaults();
}

void DecoderModel::set_defaults() {
  seams_.embedding.set_default("embed", nn::embed);
  seams_.rotary.set_default("rotary", nn::rotary_tables);
  seams_.attention.set_default("sdpa", nn::Attention());
  seams_.norm.set_default("rms_norm", [compute = precision_.compute, from_one = config_.family->norm_from_one](const NormArgs& args) {
    return nn::rms_norm(args.x, from_one ? args.weight + 1 : args.weight, args.eps, compute);
  });
  seams_.activation.set_default(config_.activation, nn::activate);
  seams_.mlp.set_default(config_.experts ? "mixture_of_experts" : "gated_mlp", [this](const MlpArgs& args) {
    const Layer& layer = layers_.at(static_cast<size_t>(args.layer));
    return layer.router ? mixture(layer, args) : mlp(layer, args.x);
  });
  if (config_.experts) seams_.router.set_default("softmax_top_k", nn::route);
  seams_.block.set_default("decoder_block", [this](const BlockArgs& args) { return block(*args.state, args.layer), true; });
  seams_.loss.set_default("logprobs", nn::token_logprobs);
}

State DecoderModel::begin(const Batch& batch, Cache* cache) {
  nn::check_ids(batch.ids, embedding_->spec().out);
  auto* recalling = dynamic_cast<RecallingCache*>(cache);
  auto* kv_cache = recalling ? &recalling->kv() : dynamic_cast<nn::KvCache*>(cache);
  if (cache && !kv_cache) fail(ErrorCode::Internal, "this cache was made by another model");
  Batch placed = recalling ? recalling->recall(batch) : batch;
  const at::Device device = parts_.device(-1, 0);
  move_to(device, placed.ids);
  State state;
  if (const int64_t asked = batch.ids.size(1); asked < placed.ids.size(1)) state.extras[kAsked] = at::scalar_tensor(asked, at::kLong);
  nn::place_tokens(placed, kv_cache, state);
  state.hidden = seams_.embedding({.ids = placed.ids, .slot = embedding_, .dtype = precision_.residual});
  // The factor is rounded to the weight's dtype, as transformers does.
  if (config_.family->scaled)
    state.hidden =
        state.hidden *
        at::scalar_tensor(std::sqrt(static_cast<double>(config_.hidden)), embedding_->spec().dtype).to(at::kDouble).item<double>();
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
  at::Tensor change = attention(layer, norm(state.hidden, *layer.attention_norm), state, i);
  if (layer.attention_out_norm) change = norm(change, *layer.attention_out_norm);
  at::Tensor hidden = add(state.hidden, change, precision_.residual, false);
  change = seams_.mlp({.x = norm(hidden, *layer.mlp_norm), .layer = i, .state = &state});
  if (layer.mlp_out_norm) change = norm(change, *layer.mlp_out_norm);
  state.hidden = add(hidden, change, precision_.residual, true);
}

// [B, T, heads of each, head_dim]
std::vector<at::Tensor> DecoderModel::query_key_value(const Layer& layer, const at::Tensor& x) const {
  std::vector<at::Tensor> qkv;
  if (layer.qkv) {
    const int64_t q = config_.heads * config_.head_dim, kv = config_.kv_heads * config_.head_dim;
    const at::Tensor fused = layer.qkv->linear(x);
    qkv = {fused.narrow(-1, 0, q), fused.narrow(-1, q, kv), fused.narrow(-1, q + kv, kv)};
  } else {
    qkv = linear_many({layer.q, layer.k, layer.v}, x);
  }
  for (at::Tensor& part : qkv) part = part.unflatten(-1, {part.size(-1) / config_.head_dim, config_.head_dim});
  return qkv;
}

at::Tensor DecoderModel::attention(const Layer& layer, const at::Tensor& x, const State& state, int64_t i) const {
  const int64_t batch = x.size(0), tokens = x.size(1);
  std::vector<at::Tensor> qkv = query_key_value(layer, x);
  at::Tensor q = qkv[0], k = qkv[1], v = qkv[2].transpose(1, 2);
  qkv.clear();
  if (layer.q_norm) q = norm(q, *layer.q_norm), k = norm(k, *layer.k_norm);
  if (layer.rotates) {
    const Rotary& rotary = state.rotary.at(kRotary);
    q = nn::apply_rotary(q, rotary, /*may_overwrite=*/true), k = nn::apply_rotary(k, rotary, /*may_overwrite=*/true);
  }
  q = q.transpose(1, 2), k = k.transpose(1, 2);
  if (state.cache) std::tie(k, v) = static_cast<nn::KvCache*>(state.cache)->append(i, k, v);
  const at::Tensor mixed = seams_.attention({.q = q,
                                             .k = k,
                                             .v = v,
                                             .scale = config_.attention_scale,
                                             .past = state.past,
                                             .window = layer.window,
                                             .softcap = config_.attention_softcap,
                                             .segments = state.segments,
                                             .key_segments = state.key_segments,
                                             .layer = i});
  return layer.o->linear(mixed.transpose(1, 2).reshape({batch, tokens, config_.heads * config_.head_dim}));
}

at::Tensor DecoderModel::mlp(const Layer& layer, const at::Tensor& x) const {
  ActivationArgs args{.name = &config_.activation};
  if (layer.gate_up) {
    const at::Tensor fused = layer.gate_up->linear(x);
    args.gate = fused.narrow(-1, 0, config_.intermediate), args.up = fused.narrow(-1, config_.intermediate, config_.intermediate);
  } else {
    std::vector<at::Tensor> gate_up = linear_many({layer.gate, layer.up}, x);
    args.gate = std::move(gate_up[0]), args.up = std::move(gate_up[1]);
  }
  const at::Tensor product = seams_.activation(args);
  args = {};
  return layer.down->linear(product);
}

at::Tensor DecoderModel::mixture(const Layer& layer, const MlpArgs& args) const {
  const at::Tensor tokens = args.x.reshape({-1, config_.hidden}), &weight = layer.router->value;
  // A patch may keep the router in a wider dtype.
  const at::ScalarType dtype = c10::promoteTypes(tokens.scalar_type(), weight.scalar_type());
  const at::Tensor logits = nn::linear(tokens.to(dtype), weight.to(dtype));
  const Routing routing =
      seams_.router({.logits = logits, .top_k = config_.top_k, .normalize = config_.expert_weights_normalized, .layer = args.layer});
  if (config_.balance_coefficient > 0 && args.state) nn::count_routed(*args.state, logits, routing);
  const at::Tensor mixed = nn::mix_experts(tokens, routing, config_.experts, [&](const at::Tensor& sorted, const at::Tensor& offsets) {
    const at::Tensor gate_up = layer.gate_up->filler().grouped(sorted, offsets);
    const at::Tensor product = seams_.activation({.gate = gate_up.narrow(-1, 0, config_.expert_width),
                                                  .up = gate_up.narrow(-1, config_.expert_width, config_.expert_width),
                                                  .name = &config_.activation});
    return layer.down->filler().grouped(product, offsets);
  });
  return mixed.view(args.x.sizes());
}

at::Tensor DecoderModel::norm(const at::Tensor& x, const Dense& weight) const {
  // A patch may answer in another dtype.
  return seams_.norm({.x = x, .weight = weight.value, .eps = config_.eps, .path = &weight.spec.path}).to(precision_.compute);
}

at::Tensor DecoderModel::finish(State& state) {
  move_to(parts_.device(-1, 1), state.hidden);
  const int64_t tokens = state.hidden.size(1);
  if (state.cache) static_cast<nn::KvCache*>(state.cache)->commit(tokens);
  if (const auto asked = state.extras.find(kAsked); asked != state.extras.end()) {
    const auto count = asked->second.item<int64_t>();
    return norm(state.hidden.narrow(1, tokens - count, count), *final_norm_);
  }
  return norm(state.hidden, *final_norm_);
}

at::Tensor DecoderModel::auxiliary_loss(const State& state) {
  const at::Tensor loss = nn::balance_loss(state);
  return loss.defined() ? loss * config_.balance_coefficient : loss;
}

at::Tensor DecoderModel::logits(const at::Tensor& hidden) {
  return nn::soft_cap(head_->linear(hidden.to(parts_.device(-1, 1))).to(at::kFloat), config_.logit_softcap);
}

at::Tensor DecoderModel::token_logprobs(const at::Tensor& hidden, const at::Tensor& targets) {
  const at::Device device = parts_.device(-1, 1);
  return seams_.loss({.hidden = hidden.to(device), .targets = targets.to(device), .head = head_, .logit_softcap = config_.logit_softcap});
}

std::unique_ptr<Cache> DecoderModel::make_cache(int64_t batch, int64_t capacity) {
  std::vector<nn::KvCache::Layer> layers;
  for (const Layer& layer : layers_) layers.push_back({.kv_heads = config_.kv_heads, .head_dim = config_.head_dim, .device = layer.device});
  if (config_.recalled_beyond > 0)
    return std::make_unique<RecallingCache>(layers, batch, capacity, precision_.compute, config_.recalled_beyond);
  return std::make_unique<nn::KvCache>(layers, batch, capacity, precision_.compute);
}

}  // namespace tenon::llama
