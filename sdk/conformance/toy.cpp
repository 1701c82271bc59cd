#include "toy.h"

#include <ATen/TensorOperators.h>

#include <cmath>

#include "tenon/nn/activation.h"
#include "tenon/nn/attention.h"
#include "tenon/nn/embedding.h"
#include "tenon/nn/loss.h"
#include "tenon/nn/norm.h"

namespace tenon::conformance {

namespace {

struct Sizes {
  int64_t vocab, hidden, intermediate, layers, heads, kv_heads, head_dim, positions;
  nn::RotarySpec rotary;
};

Sizes read_sizes(const Value& config) {
  nn::ConfigReader reader(config);
  auto size = [&](const char* key, int64_t fallback) { return reader.integer(key, fallback, 1, 1 << 20); };
  Sizes s{};
  s.vocab = size("vocab_size", 96), s.hidden = size("hidden_size", 64), s.intermediate = size("intermediate_size", 96);
  s.layers = size("num_hidden_layers", 2), s.heads = size("num_attention_heads", 4), s.kv_heads = size("num_key_value_heads", 2);
  s.positions = size("max_position_embeddings", 128);
  s.head_dim = s.hidden / s.heads;
  s.rotary = nn::read_rotary(reader, s.head_dim, s.positions);
  reader.finish("toy");
  return s;
}

const std::string kNorm = "norm";

class Toy final : public Model {
 public:
  Toy(Sizes sizes, Parts& parts) : s_(std::move(sizes)), parts_(parts) {
    seams_.embedding.set_default("embed", nn::embed);
    seams_.rotary.set_default("rotary", nn::rotary_tables);
    seams_.attention.set_default("attention", nn::Attention());
    seams_.norm.set_default("rms_norm", [](const NormArgs& args) { return nn::rms_norm(args.x, args.weight, args.eps, at::kFloat); });
    seams_.activation.set_default("silu", nn::activate);
    seams_.mlp.set_default("mlp", [this](const MlpArgs& args) { return mlp(args); });
    seams_.block.set_default("block", [this](const BlockArgs& args) { return block(args); });
    seams_.loss.set_default("logprobs", nn::token_logprobs);
  }

  const Blueprint& blueprint() const override { return parts_.blueprint(); }
  Seams& seams() override { return seams_; }

  State begin(const Batch& batch, Cache* cache) override {
    State state;
    nn::place_tokens(batch, dynamic_cast<nn::KvCache*>(cache), state);
    state.hidden = seams_.embedding({.ids = batch.ids, .slot = &parts_.slot("model.embed_tokens"), .dtype = at::kFloat});
    state.rotary["default"] = seams_.rotary({.positions = state.positions,
                                             .inv_freq = s_.rotary.frequencies(state.positions),
                                             .attention_scaling = s_.rotary.attention_scaling});
    return state;
  }
  void run_block(int stack, int64_t i, State& state) override { seams_.block({.state = &state, .stack = stack, .layer = i}); }
  at::Tensor finish(State& state) override {
    if (auto* cache = dynamic_cast<nn::KvCache*>(state.cache)) cache->commit(state.hidden.size(1));
    return norm(state.hidden, "model.norm.weight");
  }
  at::Tensor logits(const at::Tensor& hidden) override { return parts_.slot("lm_head").linear(hidden).to(at::kFloat); }
  at::Tensor token_logprobs(const at::Tensor& hidden, const at::Tensor& targets) override {
    return seams_.loss({.hidden = hidden, .targets = targets, .head = &parts_.slot("lm_head")});
  }
  std::unique_ptr<Cache> make_cache(int64_t batch, int64_t capacity) override {
    const std::vector<nn::KvCache::Layer> layers(static_cast<size_t>(s_.layers), {s_.kv_heads, s_.head_dim, at::kCPU});
    return std::make_unique<nn::KvCache>(layers, batch, capacity, at::kFloat);
  }

 private:
  at::Tensor norm(const at::Tensor& x, const std::string& path) const {
    const Dense& weight = parts_.dense(path);
    return seams_.norm({.x = x, .weight = weight.value, .eps = 1e-6, .path = &weight.spec.path});
  }

  bool block(const BlockArgs& args) const {
    State& state = *args.state;
    const std::string path = concat("model.layers.", args.layer, ".");
    state.hidden = state.hidden + attention(norm(state.hidden, path + "input_layernorm.weight"), state, args.layer, path + "self_attn.");
    state.hidden = state.hidden + seams_.mlp({.x = norm(state.hidden, path + "post_attention_layernorm.weight"), .layer = args.layer});
    return true;
  }

  at::Tensor attention(const at::Tensor& x, State& state, int64_t layer, const std::string& path) const {
    const int64_t batch = x.size(0), time = x.size(1);
    auto projected = linear_many({&parts_.slot(path + "q_proj"), &parts_.slot(path + "k_proj"), &parts_.slot(path + "v_proj")}, x);
    const Rotary& rotary = state.rotary.at("default");
    auto heads = [&](const at::Tensor& t, int64_t count) { return t.view({batch, time, count, s_.head_dim}); };
    AttentionArgs args;
    args.q = nn::apply_rotary(heads(projected[0], s_.heads), rotary).transpose(1, 2);
    args.k = nn::apply_rotary(heads(projected[1], s_.kv_heads), rotary).transpose(1, 2);
    args.v = heads(projected[2], s_.kv_heads).transpose(1, 2);
    if (auto* cache = dynamic_cast<nn::KvCache*>(state.cache)) std::tie(args.k, args.v) = cache->append(layer, args.k, args.v);
    args.scale = 1 / std::sqrt(static_cast<double>(s_.head_dim));
    args.past = state.past;
    args.segments = state.segments, args.key_segments = state.key_segments;
    args.layer = layer;
    return parts_.slot(path + "o_proj").linear(seams_.attention(args).transpose(1, 2).reshape({batch, time, s_.heads * s_.head_dim}));
  }

  at::Tensor mlp(const MlpArgs& args) const {
    const std::string path = concat("model.layers.", args.layer, ".mlp.");
    auto both = linear_many({&parts_.slot(path + "gate_proj"), &parts_.slot(path + "up_proj")}, args.x);
    static const std::string silu = "silu";
    return parts_.slot(path + "down_proj").linear(seams_.activation({.gate = both[0], .up = both[1], .name = &silu}));
  }

  Sizes s_;
  Parts& parts_;
  Seams seams_;
};

}  // namespace

Value small_config(const std::string& model_type) {
  Value config = Value::table();
  config.set("model_type", model_type);
  for (const auto& [key, value] : std::vector<std::pair<const char*, int64_t>>{{"vocab_size", 96},
                                                                               {"hidden_size", 64},
                                                                               {"intermediate_size", 96},
                                                                               {"num_hidden_layers", 2},
                                                                               {"num_attention_heads", 4},
                                                                               {"num_key_value_heads", 2},
                                                                               {"head_dim", 16},
                                                                               {"max_position_embeddings", 128},
                                                                               {"bos_token_id", 1},
                                                                               {"eos_token_id", 2}})
    config.set(key, value);
  config.set("rms_norm_eps", 1e-6), config.set("rope_theta", 10000.0), config.set("initializer_range", 0.02);
  config.set("hidden_act", "silu"), config.set("tie_word_embeddings", false), config.set("torch_dtype", "float32");
  return config;
}

Blueprint ToyArchitecture::blueprint(const Value& config) const {
  const Sizes s = read_sizes(config);
  Blueprint b;
  b.model_type = config.string_or("model_type", "toy");
  b.vocab_size = s.vocab, b.hidden_size = s.hidden, b.context_length = s.positions;
  b.stacks = {{"model.layers", s.layers}};
  b.seams = {"embedding", "rotary", "attention", "norm", "activation", "mlp", "block", "loss"};
  b.block_activations = {{}};
  b.cache_elements_per_token = static_cast<double>(2 * s.layers * s.kv_heads * s.head_dim);
  auto slot = [&](const std::string& path, int64_t out, int64_t in, int64_t block, const std::string& group, int stage) {
    SlotSpec spec;
    spec.path = path, spec.out = out, spec.in = in;
    spec.stack = block < 0 ? -1 : 0, spec.block = block, spec.input_group = group, spec.stage = stage;
    spec.sources = {Source::rename(path + ".weight")};
    b.slots.push_back(spec);
  };
  auto norm = [&](const std::string& path, int64_t block) {
    DenseSpec spec;
    spec.path = path, spec.shape = {s.hidden};
    spec.stack = block < 0 ? -1 : 0, spec.block = block;
    spec.sources = {Source::rename(path)};
    b.tensors.push_back(spec);
  };
  slot("model.embed_tokens", s.vocab, s.hidden, -1, "", 0);
  b.slots.back().kind = SlotKind::Embedding;
  b.slots.back().role = SlotRole::InputEmbedding;
  for (int64_t i = 0; i < s.layers; ++i) {
    const std::string layer = concat("model.layers.", i, "."), attention = layer + "self_attn.", mlp = layer + "mlp.";
    norm(layer + "input_layernorm.weight", i);
    slot(attention + "q_proj", s.heads * s.head_dim, s.hidden, i, attention + "qkv", 0);
    slot(attention + "k_proj", s.kv_heads * s.head_dim, s.hidden, i, attention + "qkv", 0);
    slot(attention + "v_proj", s.kv_heads * s.head_dim, s.hidden, i, attention + "qkv", 0);
    slot(attention + "o_proj", s.hidden, s.heads * s.head_dim, i, "", 1);
    norm(layer + "post_attention_layernorm.weight", i);
    slot(mlp + "gate_proj", s.intermediate, s.hidden, i, mlp + "gate_up", 2);
    slot(mlp + "up_proj", s.intermediate, s.hidden, i, mlp + "gate_up", 2);
    slot(mlp + "down_proj", s.hidden, s.intermediate, i, "", 3);
  }
  norm("model.norm.weight", -1);
  slot("lm_head", s.vocab, s.hidden, -1, "", 0);
  b.slots.back().role = SlotRole::OutputHead;
  return b;
}

std::unique_ptr<Model> ToyArchitecture::build(const Value& config, Parts& parts) const {
  return std::make_unique<Toy>(read_sizes(config), parts);
}

ToyModel make_model(const Architecture& architecture, const Value& config, uint64_t seed, bool trainable) {
  ToyModel toy;
  toy.parts = std::make_unique<KitParts>(architecture.blueprint(config));
  toy.model = architecture.build(config, *toy.parts);
  expect(toy.model != nullptr, "build() returned nothing");
  toy.parts->fill(seed, trainable);
  return toy;
}

}  // namespace tenon::conformance
