#pragma once
// What differs between the families of this plugin, and config.json read into numbers.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tenon/nn/rotary.h"
#include "tenon/value.h"

namespace tenon::llama {

enum class Bias { Never, Always, AttentionBiasKey };
enum class Window { None, EveryLayer, LastLayers, Alternating, UnrotatedLayers };
enum class HeadDim { Derived, Given };
enum class Norms { Before, BeforeAndAfter };  // of attention and mlp

// A mixture of experts in place of the mlp. Older files hold each expert apart: <layer><file_block>.experts.<e>.<gate | up | down>.weight.
struct Mixture {
  int64_t experts = 0, top_k = 0;  // 0 experts: none
  int64_t width = 0;               // default of moe_intermediate_size; 0: experts are intermediate_size wide
  bool always_normalized = false;  // a token's weights add up to 1; else norm_topk_prob says so
  bool has_dense_layers = false;   // mlp_only_layers, decoder_sparse_step
  const char *file_block = ".mlp", *gate = "gate_proj", *up = "up_proj", *down = "down_proj";
};

// One row a family; the defaults are those of transformers' config classes. A new family is a new row, and a new column for what no other has.
struct Family {
  const char* model_type;
  const char* summary;
  int64_t vocab_size, intermediate_size, max_position_embeddings;
  int64_t hidden_size = 4096, layers = 32, heads = 32;
  int64_t kv_heads = 0;  // 0: as many as heads
  HeadDim head_dim =
      HeadDim::Derived;  // derived: hidden_size / heads unless head_dim says so; given: the default below unless head_dim says so
  int64_t given_head_dim = 128;
  double eps = 1e-6;
  bool tied = false;
  const char* activation_key = "hidden_act";
  const char* activation = "silu";
  Bias qkv_bias = Bias::Never, out_bias = Bias::Never;
  bool mlp_bias_key = false;  // reads mlp_bias
  bool fused = false;         // qkv_proj and gate_up_proj are one weight each, in the model as in files
  bool qk_norm = false;       // a norm over each head of q and k
  Norms norms = Norms::Before;
  bool norm_from_one = false;  // norm weights are stored less one
  bool scaled = false;         // embeddings times sqrt(hidden_size); query_pre_attn_scalar; attn_ and final_logit_softcapping
  Window window = Window::None;
  int64_t default_window = 4096;                              // where the config has no sliding_window; 0: none
  bool window_flag = false;                                   // use_sliding_window turns windows on
  bool unrotated_layers = false;                              // no_rope_layers, no_rope_layer_interval
  std::vector<const char*> dropouts = {"attention_dropout"};  // what transformers drops while it trains
  Mixture mixture = {};
  nn::RotaryRules rotary = {};
  bool recalls = false;  // a text that outgrows longrope's original context over a cache is computed anew
};

const std::vector<Family>& families();
const Family& family_of(const std::string& model_type);

struct DecoderConfig {
  const Family* family = nullptr;
  int64_t vocab_size = 0, hidden = 0, intermediate = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, max_positions = 0;
  double eps = 1e-6;
  bool qkv_bias = false, out_bias = false, mlp_bias = false, tied = false;
  std::string activation;
  double attention_scale = 1, attention_softcap = 0, logit_softcap = 0;  // caps: 0 for none
  std::vector<int64_t> windows;                                          // by layer; 0: none
  std::vector<bool> rotates, mixes;                                      // by layer; mixes: experts in place of the mlp
  int64_t experts = 0, top_k = 0, expert_width = 0;
  bool expert_weights_normalized = false;
  double balance_coefficient = 0;  // of the load balance loss; 0: none
  nn::RotarySpec rotary;
  int64_t recalled_beyond = 0;  // tokens over a cache; 0: never
  at::ScalarType dtype = at::kFloat;
};

// Error(Data) naming everything that is wrong or not supported.
DecoderConfig read_config(const Family& family, const Value& config);

}  // namespace tenon::llama
