#include "mllama_cross.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

namespace tenon::vlm {

namespace {

const std::string kStretches = "mllama.stretches", kFirst = "mllama.first", kFeatures = "mllama.features", kSeeing = "mllama.seeing";

using Pair = MllamaCache::Pair;

Pair cut_view(const Pair& pictures, int64_t index, int64_t tokens) {
  const auto cut = [&](const at::Tensor& x) { return x.narrow(0, index, 1).narrow(2, 0, tokens); };
  return {cut(pictures.k), cut(pictures.v)};
}

Pair join(const std::vector<Pair>& pairs) {
  if (pairs.size() == 1) return pairs[0];
  std::vector<at::Tensor> k, v;
  for (const Pair& pair : pairs) k.push_back(pair.k), v.push_back(pair.v);
  return {at::cat(k, 2), at::cat(v, 2)};
}

}  // namespace

MllamaCache::MllamaCache(std::unique_ptr<Cache> text, int64_t batch, int64_t layers)
    : text_(std::move(text)), marks_(static_cast<size_t>(batch)), layers_(static_cast<size_t>(layers)) {
  for (Layer& layer : layers_) layer.joined.resize(static_cast<size_t>(batch));
}

void MllamaCache::truncate(int64_t length) {
  text_->truncate(length);
  forget();
}

// Marks of tokens that are gone, and pictures that no mark names any more.
void MllamaCache::forget() {
  cut_marks(marks_, text_->length());
  int64_t end = 0;
  for (const auto& row : marks_)
    for (const Mark& mark : row)
      for (const View& view : mark.views) end = std::max(end, view.picture + 1);
  for (Layer& layer : layers_) {
    while (!layer.kept.empty() && layer.kept.back().first >= end) layer.kept.pop_back();
    for (Joined& joined : layer.joined)
      if (std::any_of(joined.views.begin(), joined.views.end(), [&](const View& view) { return view.picture >= end; })) joined = {};
  }
}

Marks& MllamaCache::marks() {
  forget();
  return marks_;
}

int64_t MllamaCache::next_picture() {
  for (const Layer& layer : layers_)
    if (!layer.kept.empty()) return layer.kept.back().first + layer.kept.back().pair.k.size(0);
  return 0;
}

void MllamaCache::keep(int64_t layer, int64_t first_picture, Pair pair) {
  layers_.at(static_cast<size_t>(layer)).kept.push_back({first_picture, {pair.k.contiguous(), pair.v.contiguous()}});
}

Pair MllamaCache::cut(const Layer& layer, const View& view, int64_t tile_tokens) const {
  for (auto kept = layer.kept.rbegin(); kept != layer.kept.rend(); ++kept)
    if (view.picture >= kept->first) return cut_view(kept->pair, view.picture - kept->first, view.tiles * tile_tokens);
  fail(ErrorCode::Internal, "the cache has no picture ", view.picture);
}

Pair MllamaCache::find(int64_t layer, int64_t row, const std::vector<View>& views, int64_t tile_tokens) {
  Layer& own = layers_.at(static_cast<size_t>(layer));
  if (views.size() == 1) return cut(own, views[0], tile_tokens);
  Joined& joined = own.joined.at(static_cast<size_t>(row));
  if (joined.views == views) return joined.pair;
  std::vector<Pair> pairs;
  for (const View& view : views) pairs.push_back(cut(own, view, tile_tokens));
  joined = {views, join(pairs)};
  return joined.pair;
}

CrossLayers::CrossLayers(const MllamaConfig& config, Parts& parts, Seams& seams, const std::string& path)
    : config_(config), seams_(seams), precision_(parts.precision()) {
  for (int64_t i = 0; i < config.layers(); ++i) {
    layers_.emplace_back();
    if (!config.looks[static_cast<size_t>(i)]) continue;
    const std::string block = concat(path, ".layers.", i, "."), attention = block + "cross_attn.";
    layers_.back() = {.q = &parts.slot(attention + "q_proj"),
                      .k = &parts.slot(attention + "k_proj"),
                      .v = &parts.slot(attention + "v_proj"),
                      .o = &parts.slot(attention + "o_proj"),
                      .q_norm = &parts.dense(attention + "q_norm.weight"),
                      .k_norm = &parts.dense(attention + "k_norm.weight"),
                      .attention_norm = &parts.dense(block + "input_layernorm.weight"),
                      .mlp_norm = &parts.dense(block + "post_attention_layernorm.weight"),
                      .attention_gate = &parts.dense(block + "cross_attn_attn_gate"),
                      .mlp_gate = &parts.dense(block + "cross_attn_mlp_gate")};
  }
}

void CrossLayers::prepare(State& state, const std::vector<Stretch>& stretches, int64_t first_picture) {
  if (stretches.empty()) return;
  const auto gives = [](const Stretch& s) { return !s.is_blind && !s.views.empty(); };
  state.extras[kStretches] = pack(stretches);
  state.extras[kFirst] = at::tensor(first_picture, at::kLong);
  if (std::all_of(stretches.begin(), stretches.end(), gives)) return;
  const at::Tensor seeing = at::ones({state.hidden.size(0), state.hidden.size(1), 1}, at::kFloat);
  for (const Stretch& s : stretches)
    if (!gives(s)) seeing.select(0, s.row).narrow(0, s.first, s.count).zero_();
  state.extras[kSeeing] = seeing.to(state.hidden.device());
}

void CrossLayers::set_features(State& state, at::Tensor features) { state.extras[kFeatures] = std::move(features); }

at::Tensor CrossLayers::norm(const at::Tensor& x, const Dense& weight) const {
  return seams_.norm({.x = x, .weight = weight.value, .eps = config_.eps, .path = &weight.spec.path}).to(precision_.compute);
}

at::Tensor CrossLayers::gate(const Dense& gate, const at::Tensor& like) const { return gate.value.to(like.scalar_type()).tanh(); }

// [n, tokens, heads * head_dim] -> [n, tokens, heads, head_dim]
at::Tensor CrossLayers::heads(const at::Tensor& x, int64_t count) const { return x.unflatten(-1, {count, config_.head_dim()}); }

Pair CrossLayers::keys(const Layer& layer, const at::Tensor& features) const {
  const std::vector<at::Tensor> kv = linear_many({layer.k, layer.v}, features);
  return {norm(heads(kv[0], config_.kv_heads), *layer.k_norm).transpose(1, 2), heads(kv[1], config_.kv_heads).transpose(1, 2)};
}

at::Tensor CrossLayers::attention(const Layer& layer, const at::Tensor& x, const State& state, int64_t i, MllamaCache* cache) const {
  const int64_t rows = x.size(0), tokens = x.size(1), tile_tokens = config_.vision.tokens();
  const at::Tensor q = norm(heads(layer.q->linear(x), config_.heads), *layer.q_norm).transpose(1, 2);
  Pair pictures;
  if (const auto features = state.extras.find(kFeatures); features != state.extras.end()) {
    pictures = keys(layer, features->second.to(x.device()));
    if (cache) cache->keep(i, state.extras.at(kFirst).item<int64_t>(), pictures);
  }
  const auto seen = [&](const Stretch& s) {
    if (cache) return cache->find(i, s.row, s.views, tile_tokens);
    std::vector<Pair> pairs;
    for (const View& view : s.views) pairs.push_back(cut_view(pictures, view.picture, view.tiles * tile_tokens));
    return join(pairs);
  };
  std::vector<std::vector<at::Tensor>> pieces(static_cast<size_t>(rows));
  for (const Stretch& s : unpack(state.extras.at(kStretches))) {
    const at::Tensor own = q.narrow(0, s.row, 1).narrow(2, s.first, s.count);
    at::Tensor mixed;
    if (s.views.empty()) {
      mixed = at::zeros(own.sizes(), own.options().requires_grad(false));
    } else {
      const auto [k, v] = seen(s);
      mixed = seams_.attention(
          {.q = own, .k = k, .v = v, .scale = 1 / std::sqrt(static_cast<double>(config_.head_dim())), .causal = false, .layer = i});
    }
    pieces[static_cast<size_t>(s.row)].push_back(std::move(mixed));
  }
  std::vector<at::Tensor> all;
  for (const auto& row : pieces) all.push_back(row.size() == 1 ? row[0] : at::cat(row, 2));
  const at::Tensor mixed = rows == 1 ? all[0] : at::cat(all);
  return layer.o->linear(mixed.transpose(1, 2).reshape({rows, tokens, config_.text_hidden}));
}

void CrossLayers::run(State& state, int64_t i, MllamaCache* cache) const {
  if (!state.extras.count(kStretches)) return;
  const Layer& layer = layers_.at(static_cast<size_t>(i));
  at::Tensor change = attention(layer, norm(state.hidden, *layer.attention_norm), state, i, cache);
  const at::Tensor hidden = (state.hidden + gate(*layer.attention_gate, change) * change).to(precision_.residual);
  change = seams_.mlp({.x = norm(hidden, *layer.mlp_norm), .layer = i, .state = &state});
  if (const auto seeing = state.extras.find(kSeeing); seeing != state.extras.end())
    change = change * seeing->second.to(change.device(), change.scalar_type());
  state.hidden = (hidden + gate(*layer.mlp_gate, change) * change).to(precision_.residual);
}

}  // namespace tenon::vlm
