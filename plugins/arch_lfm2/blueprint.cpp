#include "blueprint.h"

namespace tenon::lfm2 {

namespace {
// Order of execution inside a block: what mixes tokens, then the mlp.
enum Stage { kIn, kOut, kGateUp, kDown };

class Builder {
 public:
  explicit Builder(const Config& config) : c_(config) {}

  Blueprint build() {
    b_.model_type = "lfm2";
    b_.vocab_size = c_.vocab_size, b_.hidden_size = c_.hidden, b_.context_length = c_.max_positions;
    b_.stacks = {{"model.layers", c_.layers}};
    b_.seams = {"embedding", "rotary", "attention", "norm", "activation", "mlp", "block", "loss"};
    b_.ignorable = {R"(model\.rotary_emb\.inv_freq)", R"(model\.pos_emb\.inv_freq)"};

    SlotSpec embedding = weight("model.embed_tokens", c_.vocab_size, c_.hidden, false);
    embedding.kind = SlotKind::Embedding;
    embedding.role = SlotRole::InputEmbedding;
    // A tied file may hold its one matrix under either name.
    if (c_.tied) embedding.sources.push_back(Source::rename("lm_head.weight"));
    b_.slots.push_back(std::move(embedding));
    for (int64_t i = 0; i < c_.layers; ++i) add_block(i);
    // The norm behind the last block, whatever its name says.
    norm("model.embedding_norm", c_.hidden, -1);
    SlotSpec head = weight("lm_head", c_.vocab_size, c_.hidden, false);
    head.role = SlotRole::OutputHead;
    head.partition = Partition::Column;
    if (c_.tied) {
      head.tied_to = "model.embed_tokens";
      head.sources.clear();
    }
    b_.slots.push_back(std::move(head));

    b_.block_activations = {activations()};
    // What convolutions remember does not grow with the sequence.
    b_.cache_elements_per_token = static_cast<double>(2 * c_.attention_layers() * c_.kv_heads * c_.head_dim);
    return std::move(b_);
  }

 private:
  void add_block(int64_t i) {
    const std::string block = concat("model.layers.", i), mlp = block + ".feed_forward";
    norm(block + ".operator_norm", c_.hidden, i);
    if (c_.attends[static_cast<size_t>(i)])
      add_attention(block + ".self_attn", i);
    else
      add_convolution(block + ".conv", i);
    norm(block + ".ffn_norm", c_.hidden, i);
    linear(mlp + ".w1", c_.intermediate, c_.hidden, false, i, kGateUp, mlp + ".gate_up", Partition::Column);
    linear(mlp + ".w3", c_.intermediate, c_.hidden, false, i, kGateUp, mlp + ".gate_up", Partition::Column);
    linear(mlp + ".w2", c_.hidden, c_.intermediate, false, i, kDown, "", Partition::Row);
  }

  void add_attention(const std::string& attention, int64_t i) {
    const int64_t q = c_.heads * c_.head_dim, kv = c_.kv_heads * c_.head_dim;
    linear(attention + ".q_proj", q, c_.hidden, false, i, kIn, attention + ".qkv", Partition::Column);
    linear(attention + ".k_proj", kv, c_.hidden, false, i, kIn, attention + ".qkv", Partition::Column);
    linear(attention + ".v_proj", kv, c_.hidden, false, i, kIn, attention + ".qkv", Partition::Column);
    norm(attention + ".q_layernorm", c_.head_dim, i);
    norm(attention + ".k_layernorm", c_.head_dim, i);
    linear(attention + ".out_proj", c_.hidden, q, false, i, kOut, "", Partition::Row);
  }

  void add_convolution(const std::string& conv, int64_t i) {
    linear(conv + ".in_proj", 3 * c_.hidden, c_.hidden, c_.conv_bias, i, kIn, "", Partition::Replicate);
    tensor(conv + ".conv.weight", {c_.hidden, 1, c_.kernel}, DenseKind::Convolution, i);
    if (c_.conv_bias) tensor(conv + ".conv.bias", {c_.hidden}, DenseKind::Other, i);
    linear(conv + ".out_proj", c_.hidden, c_.hidden, c_.conv_bias, i, kOut, "", Partition::Row);
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

  void tensor(const std::string& path, std::vector<int64_t> shape, DenseKind kind, int64_t block) {
    DenseSpec tensor;
    tensor.path = path;
    tensor.kind = kind, tensor.shape = std::move(shape);
    tensor.dtype = c_.dtype;
    tensor.stack = block < 0 ? -1 : 0, tensor.block = block;
    tensor.sources = {Source::rename(path)};
    b_.tensors.push_back(std::move(tensor));
  }

  void norm(const std::string& module, int64_t width, int64_t block) { tensor(module + ".weight", {width}, DenseKind::Norm, block); }

  // What the operations keep, the block's input apart (it is kept in any case); a mean of both kinds of block, whose sum is the stack's.
  ActivationCost activations() const {
    const int64_t q = c_.heads * c_.head_dim, kv = c_.kv_heads * c_.head_dim, attending = c_.attention_layers();
    // q and k before and after their norms and the rotation, v, attention's output; one log-sum a head, one scale a norm.
    const int64_t attention = 3 * q + 3 * kv, attention_scales = 2 * c_.heads + c_.kv_heads;
    // The three parts of the input, and what the convolution makes.
    const int64_t conv = 4 * c_.hidden;
    ActivationCost cost;
    cost.compute = static_cast<double>(attending * attention + (c_.layers - attending) * conv) / static_cast<double>(c_.layers) +
                   static_cast<double>(2 * c_.intermediate);
    cost.float32 = static_cast<double>(attending * attention_scales) / static_cast<double>(c_.layers) + static_cast<double>(c_.hidden + 2);
    return cost;
  }

  const Config& c_;
  Blueprint b_;
};
}  // namespace

Blueprint make_blueprint(const Config& config) { return Builder(config).build(); }

}  // namespace tenon::lfm2
