// Blocks of attention, each added to the hidden state: the smallest decoder that learns. The host fills the slots and runs the blocks.
#include <ATen/TensorOperators.h>

#include <cmath>

#include "tenon/nn/attention.h"
#include "tenon/nn/config_reader.h"
#include "tenon/nn/embedding.h"
#include "tenon/nn/kv_cache.h"
#include "tenon/nn/loss.h"
#include "tenon/nn/norm.h"
#include "tenon/nn/rotary.h"
#include "tenon/plugin.h"

namespace {

using namespace tenon;

struct Config {
  int64_t vocab, hidden, layers, heads, context;
  nn::RotarySpec rotary;
  at::ScalarType dtype;
};

Config read_config(const Value& value) {
  nn::ConfigReader reader(value);
  Config c{.vocab = reader.integer("vocab_size", 32000, 1, 1 << 24),
           .hidden = reader.integer("hidden_size", 512, 1, 1 << 20),
           .layers = reader.integer("num_hidden_layers", 4, 1, 4096),
           .heads = reader.integer("num_attention_heads", 8, 1, 4096),
           .context = reader.integer("max_position_embeddings", 2048, 1, 1 << 24),
           .rotary = {},
           .dtype = nn::config_dtype(reader)};
  if (c.hidden % (2 * c.heads) != 0) reader.problem(concat("hidden_size ", c.hidden, " is no multiple of twice the ", c.heads, " heads"));
  if (reader.ok()) c.rotary = nn::read_rotary(reader, c.hidden / c.heads, c.context);
  reader.finish("mine");  // all problems in one error
  return c;
}

class MineModel final : public Model {
 public:
  MineModel(Config config, Parts& parts) : c_(std::move(config)), parts_(parts), precision_(parts.precision()) {
    seams_.embedding.set_default("embed", nn::embed);
    seams_.rotary.set_default("rotary", nn::rotary_tables);
    seams_.attention.set_default("sdpa", nn::Attention());
    seams_.loss.set_default("logprobs", nn::token_logprobs);
  }
  const Blueprint& blueprint() const override { return parts_.blueprint(); }
  Seams& seams() override { return seams_; }

  State begin(const Batch& batch, Cache* cache) override {
    nn::check_ids(batch.ids, c_.vocab);
    State state;
    nn::place_tokens(batch, static_cast<nn::KvCache*>(cache), state);
    state.hidden = seams_.embedding({.ids = batch.ids, .slot = &parts_.slot("embed"), .dtype = precision_.residual});
    state.rotary["all"] = seams_.rotary({.positions = state.positions,
                                         .inv_freq = c_.rotary.inv_freq.to(batch.ids.device()),
                                         .attention_scaling = c_.rotary.attention_scaling});
    return state;
  }
  void run_block(int, int64_t i, State& state) override {
    const std::string block = concat("layers.", i, ".");
    const at::Tensor x = norm(state.hidden, block + "norm");
    const int64_t batch = x.size(0), tokens = x.size(1);
    const auto qkv = linear_many({&parts_.slot(block + "q"), &parts_.slot(block + "k"), &parts_.slot(block + "v")}, x);
    auto heads = [&](const at::Tensor& t) { return t.view({batch, tokens, c_.heads, c_.hidden / c_.heads}); };
    const at::Tensor q = nn::apply_rotary(heads(qkv[0]), state.rotary.at("all")).transpose(1, 2);
    at::Tensor k = nn::apply_rotary(heads(qkv[1]), state.rotary.at("all")).transpose(1, 2), v = heads(qkv[2]).transpose(1, 2);
    if (state.cache) std::tie(k, v) = static_cast<nn::KvCache*>(state.cache)->append(i, k, v);
    const at::Tensor mixed = seams_.attention({.q = q,
                                               .k = k,
                                               .v = v,
                                               .scale = 1 / std::sqrt(static_cast<double>(c_.hidden / c_.heads)),
                                               .past = state.past,
                                               .segments = state.segments,
                                               .key_segments = state.key_segments,
                                               .layer = i});
    const at::Tensor change = parts_.slot(block + "o").linear(mixed.transpose(1, 2).reshape({batch, tokens, c_.hidden}));
    state.hidden = (state.hidden + change).to(precision_.residual);
  }
  at::Tensor finish(State& state) override {
    if (state.cache) static_cast<nn::KvCache*>(state.cache)->commit(state.hidden.size(1));
    return norm(state.hidden, "norm");
  }
  at::Tensor logits(const at::Tensor& hidden) override { return parts_.slot("head").linear(hidden).to(at::kFloat); }
  at::Tensor token_logprobs(const at::Tensor& hidden, const at::Tensor& targets) override {
    return seams_.loss({.hidden = hidden, .targets = targets, .head = &parts_.slot("head")});
  }
  std::unique_ptr<Cache> make_cache(int64_t batch, int64_t capacity) override {
    std::vector<nn::KvCache::Layer> layers;
    for (int64_t i = 0; i < c_.layers; ++i)
      layers.push_back({.kv_heads = c_.heads, .head_dim = c_.hidden / c_.heads, .device = parts_.device(0, i)});
    return std::make_unique<nn::KvCache>(layers, batch, capacity, precision_.compute);
  }

 private:
  at::Tensor norm(const at::Tensor& x, const std::string& path) {
    return nn::rms_norm(x, parts_.dense(path + ".weight").value, 1e-5, precision_.compute);
  }
  Config c_;
  Parts& parts_;
  Precision precision_;
  Seams seams_;
};

class Mine final : public Architecture {
 public:
  // Every weight, as data: the plan is made from it before anything is read.
  Blueprint blueprint(const Value& config) const override {
    const Config c = read_config(config);
    Blueprint b;
    b.model_type = "mine";
    b.vocab_size = c.vocab, b.hidden_size = c.hidden, b.context_length = c.context;
    b.stacks = {{"layers", c.layers}};
    b.seams = {"embedding", "rotary", "attention", "loss"};
    auto slot = [&](const std::string& path, int64_t out, int64_t in, int64_t block) -> SlotSpec& {
      SlotSpec spec;
      spec.path = path;
      spec.out = out, spec.in = in, spec.dtype = c.dtype;
      spec.stack = block < 0 ? -1 : 0, spec.block = block;
      spec.sources = {Source::rename(path + ".weight")};
      return b.slots.emplace_back(std::move(spec));
    };
    auto norm = [&](const std::string& path, int64_t block) {
      DenseSpec spec;
      spec.path = path + ".weight";
      spec.shape = {c.hidden}, spec.dtype = c.dtype;
      spec.stack = block < 0 ? -1 : 0, spec.block = block;
      spec.sources = {Source::rename(spec.path)};
      b.tensors.push_back(std::move(spec));
    };
    SlotSpec& embed = slot("embed", c.vocab, c.hidden, -1);
    embed.kind = SlotKind::Embedding, embed.role = SlotRole::InputEmbedding;
    for (int64_t i = 0; i < c.layers; ++i) {
      const std::string block = concat("layers.", i, ".");
      norm(block + "norm", i);
      for (const char* name : {"q", "k", "v"}) slot(block + name, c.hidden, c.hidden, i).input_group = block + "qkv";
      slot(block + "o", c.hidden, c.hidden, i).stage = 1;
    }
    norm("norm", -1);
    slot("head", c.vocab, c.hidden, -1).role = SlotRole::OutputHead;
    // What a block keeps for its backward pass: q, k, v and the mixed values; the norm's scale and attention's sums.
    b.block_activations = {{.compute = 4.0 * static_cast<double>(c.hidden), .float32 = static_cast<double>(c.heads + 1)}};
    b.cache_elements_per_token = 2.0 * static_cast<double>(c.layers * c.hidden);
    return b;
  }
  std::unique_ptr<Model> build(const Value& config, Parts& parts) const override {
    return std::make_unique<MineModel>(read_config(config), parts);
  }
};

}  // namespace

TENON_PLUGIN(.id = "org.example.mine", .version = "0.1.0", .license = "Apache-2.0", .provides = {"architecture:mine;modality=text"})

TENON_REGISTER(tenon::Registrar& registrar) {
  registrar.architecture("mine", "Attention blocks alone.", [] { return std::make_unique<Mine>(); });
}
