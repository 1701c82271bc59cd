#include "blueprint.h"

#include <algorithm>

namespace tenon::llama {

namespace {
// Order of execution inside a block.
enum Stage { kQueryKeyValue, kAttentionOutput, kGateUp, kDown };

class Builder {
 public:
  explicit Builder(const DecoderConfig& config) : c_(config) {}

  Blueprint build() {
    b_.model_type = c_.family->model_type;
    b_.vocab_size = c_.vocab_size, b_.hidden_size = c_.hidden, b_.context_length = c_.max_positions;
    b_.stacks = {{"model.layers", c_.layers}};
    b_.seams = {"embedding", "rotary", "attention", "norm", "activation", "mlp", "block", "loss"};
    if (c_.experts) b_.seams.push_back("router");
    b_.ignorable = {R"(model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq)", R"(model\.rotary_emb\.inv_freq)"};

    SlotSpec embedding = weight("model.embed_tokens", c_.vocab_size, c_.hidden, false);
    embedding.kind = SlotKind::Embedding;
    embedding.role = SlotRole::InputEmbedding;
    // A tied file may hold its one matrix under either name.
    if (c_.tied) embedding.sources.push_back(Source::rename("lm_head.weight"));
    b_.slots.push_back(std::move(embedding));
    for (int64_t i = 0; i < c_.layers; ++i) add_block(i);
    norm("model.norm.weight", c_.hidden, -1);
    SlotSpec head = weight("lm_head", c_.vocab_size, c_.hidden, false);
    head.role = SlotRole::OutputHead;
    head.partition = Partition::Column;
    if (c_.tied) {
      head.tied_to = "model.embed_tokens";
      head.sources.clear();
    }
    b_.slots.push_back(std::move(head));

    b_.block_activations = {activations()};
    b_.cache_elements_per_token = static_cast<double>(2 * c_.layers * c_.kv_heads * c_.head_dim);
    return std::move(b_);
  }

 private:
  void add_block(int64_t i) {
    const std::string block = concat("model.layers.", i), attention = block + ".self_attn", mlp = block + ".mlp";
    const int64_t q = c_.heads * c_.head_dim, kv = c_.kv_heads * c_.head_dim;
    norm(block + ".input_layernorm.weight", c_.hidden, i);
    if (c_.family->fused) {
      linear(attention + ".qkv_proj", q + 2 * kv, c_.hidden, c_.qkv_bias, i, kQueryKeyValue, "", Partition::Replicate);
    } else {
      linear(attention + ".q_proj", q, c_.hidden, c_.qkv_bias, i, kQueryKeyValue, attention + ".qkv", Partition::Column);
      linear(attention + ".k_proj", kv, c_.hidden, c_.qkv_bias, i, kQueryKeyValue, attention + ".qkv", Partition::Column);
      linear(attention + ".v_proj", kv, c_.hidden, c_.qkv_bias, i, kQueryKeyValue, attention + ".qkv", Partition::Column);
    }
    if (c_.family->qk_norm) {
      norm(attention + ".q_norm.weight", c_.head_dim, i);
      norm(attention + ".k_norm.weight", c_.head_dim, i);
    }
    linear(attention + ".o_proj", c_.hidden, q, c_.out_bias, i, kAttentionOutput, "", Partition::Row);
    norm(block + ".post_attention_layernorm.weight", c_.hidden, i);
    if (c_.family->norms == Norms::BeforeAndAfter) {
      norm(block + ".pre_feedforward_layernorm.weight", c_.hidden, i);
      norm(block + ".post_feedforward_layernorm.weight", c_.hidden, i);
    }
    if (c_.mixes[static_cast<size_t>(i)]) return add_experts(block, i);
    if (c_.family->fused) {
      linear(mlp + ".gate_up_proj", 2 * c_.intermediate, c_.hidden, c_.mlp_bias, i, kGateUp, "", Partition::Replicate);
    } else {
      linear(mlp + ".gate_proj", c_.intermediate, c_.hidden, c_.mlp_bias, i, kGateUp, mlp + ".gate_up", Partition::Column);
      linear(mlp + ".up_proj", c_.intermediate, c_.hidden, c_.mlp_bias, i, kGateUp, mlp + ".gate_up", Partition::Column);
    }
    linear(mlp + ".down_proj", c_.hidden, c_.intermediate, c_.mlp_bias, i, kDown, "", Partition::Row);
  }

  // All experts of a layer in one slot each for gate and up, and for down. Files hold them so, or every expert apart.
  void add_experts(const std::string& block, int64_t i) {
    const Mixture& mixture = c_.family->mixture;
    const std::string now = block + ".mlp", apart = block + mixture.file_block;
    Source gate_up{.stack = true}, down{.stack = true};
    for (int64_t e = 0; e < c_.experts; ++e) {
      const std::string expert = concat(apart, ".experts.", e, ".");
      gate_up.pieces.push_back({expert + mixture.gate + ".weight", 0, c_.expert_width});
      gate_up.pieces.push_back({expert + mixture.up + ".weight", 0, c_.expert_width});
      down.pieces.push_back({expert + mixture.down + ".weight"});
    }
    DenseSpec router = tensor(now + ".gate.weight", {c_.experts, c_.hidden}, i);
    router.kind = DenseKind::Router;
    if (apart != now) router.sources.insert(router.sources.begin(), Source::rename(apart + ".gate.weight"));
    b_.tensors.push_back(std::move(router));
    experts(now + ".experts.gate_up_proj", 2 * c_.expert_width, c_.hidden, i, kGateUp, std::move(gate_up));
    experts(now + ".experts.down_proj", c_.hidden, c_.expert_width, i, kDown, std::move(down));
  }

  void experts(const std::string& path, int64_t out, int64_t in, int64_t block, int stage, Source apart) {
    SlotSpec slot = weight(path, out, in, false);
    slot.kind = SlotKind::Experts;
    slot.count = c_.experts;
    slot.stack = 0, slot.block = block, slot.stage = stage;
    slot.sources = {std::move(apart), Source::rename(path)};
    b_.slots.push_back(std::move(slot));
  }

  SlotSpec weight(const std::string& path, int64_t out, int64_t in, bool bias) const {
    SlotSpec slot;
    slot.path = path;
    slot.out = out, slot.in = in, slot.bias = bias;
    slot.dtype = c_.dtype;
    slot.sources = {Source::rename(path + ".weight")};
    if (bias) slot.bias_sources = {Source::rename(path + ".bias")};
    return slot;
  }

  void linear(const std::string& path, int64_t out, int64_t in, bool bias, int64_t block, int stage, std::string input_group,
              Partition partition) {
    SlotSpec slot = weight(path, out, in, bias);
    slot.stack = 0, slot.block = block, slot.stage = stage;
    slot.input_group = std::move(input_group);
    slot.partition = partition;
    b_.slots.push_back(std::move(slot));
  }

  DenseSpec tensor(const std::string& path, std::vector<int64_t> shape, int64_t block) const {
    DenseSpec tensor;
    tensor.path = path;
    tensor.shape = std::move(shape);
    tensor.dtype = c_.dtype;
    tensor.stack = block < 0 ? -1 : 0, tensor.block = block;
    tensor.sources = {Source::rename(path)};
    return tensor;
  }

  void norm(const std::string& path, int64_t width, int64_t block) { b_.tensors.push_back(tensor(path, {width}, block)); }

  // What the operations of tenon/nn keep, the block's input apart (it is kept in any case).
  ActivationCost activations() const {
    const int64_t q = c_.heads * c_.head_dim, kv = c_.kv_heads * c_.head_dim;
    ActivationCost cost;
    // q and k after rotation, v, and attention's output; gate and up, of experts with what goes in and comes out, for each of a token's.
    const bool has_mlp = std::find(c_.mixes.begin(), c_.mixes.end(), false) != c_.mixes.end();
    const int64_t mixture = c_.top_k * 2 * (c_.expert_width + c_.hidden);
    cost.compute = static_cast<double>(2 * q + 2 * kv + std::max(has_mlp ? 2 * c_.intermediate : 0, mixture));
    // The hidden state between attention and mlp, one log-sum a head, and one scale for each norm.
    cost.float32 = static_cast<double>(c_.hidden + c_.heads + 2 + 2 * c_.experts);
    if (c_.family->qk_norm) {
      cost.compute += static_cast<double>(q + kv);
      cost.float32 += static_cast<double>(c_.heads + c_.kv_heads);
    }
    if (c_.family->norms == Norms::BeforeAndAfter) {
      cost.compute += static_cast<double>(2 * c_.hidden);  // what goes into the norms behind attention and mlp
      cost.float32 += 2;
    }
    // Scores with a cap run unfused: what went into the cap, into the softmax and out of it is kept.
    if (c_.attention_softcap > 0) cost.scores = static_cast<double>(3 * c_.heads);
    return cost;
  }

  const DecoderConfig& c_;
  Blueprint b_;
};
}  // namespace

Blueprint make_blueprint(const DecoderConfig& config) { return Builder(config).build(); }

}  // namespace tenon::llama
