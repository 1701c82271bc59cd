#include "families.h"

#include <algorithm>
#include <cmath>

#include "tenon/nn/activation.h"
#include "tenon/nn/config_reader.h"

namespace tenon::llama {

namespace {
// Bounds far above any model, far below where products of them overflow.
constexpr int64_t kMaxVocab = int64_t{1} << 24, kMaxWidth = int64_t{1} << 20, kMaxLayers = 4096, kMaxHeads = 1 << 14,
                  kMaxPositions = int64_t{1} << 40;
constexpr int64_t kMaxExperts = 1 << 14, kDefaultMaxWindowLayers = 28, kDefaultNoRopeInterval = 4, kDefaultQueryScalar = 256;
constexpr double kDefaultAttentionCap = 50, kDefaultLogitCap = 30, kMaxCap = 1e6;

void read_heads(nn::ConfigReader& reader, DecoderConfig& c) {
  const Family& family = *c.family;
  c.heads = reader.integer("num_attention_heads", family.heads, 1, kMaxHeads);
  c.kv_heads = family.kv_heads ? family.kv_heads : c.heads;
  if (reader.config().find("num_key_value_heads"))
    c.kv_heads = reader.optional_integer("num_key_value_heads", 1, kMaxHeads).value_or(c.heads);
  if (c.heads % c.kv_heads)
    reader.problem(concat("num_key_value_heads is ", c.kv_heads, ", expected a divisor of num_attention_heads (", c.heads, ")"));

  if (family.head_dim == HeadDim::Given) {
    c.head_dim = reader.integer("head_dim", family.given_head_dim, 1, kMaxWidth);
  } else if (const auto given = reader.optional_integer("head_dim", 1, kMaxWidth)) {
    c.head_dim = *given;
  } else {
    c.head_dim = c.hidden / c.heads;
    if (c.hidden % c.heads)
      reader.problem(
          concat("hidden_size is ", c.hidden, ", expected a multiple of num_attention_heads (", c.heads, "), or head_dim beside it"));
  }
  if (c.heads * c.head_dim > kMaxWidth)
    reader.problem(concat("num_attention_heads times head_dim is ", c.heads * c.head_dim, ", expected ", kMaxWidth, " or less"));
}

// Which layers slide is the config's to say where the class has no rule of its own; a list must agree with the rule where it has one.
void read_layer_types(nn::ConfigReader& reader, DecoderConfig& c, int64_t window) {
  const Value* types = reader.config().find_set("layer_types");
  if (!types) return;
  if (!types->is_list()) return reader.problem(concat("layer_types is ", nn::ConfigReader::show(*types), ", expected a list"));
  const Value::List& list = types->as_list();
  if (static_cast<int64_t>(list.size()) != c.layers)
    return reader.problem(concat("layer_types has ", list.size(), " entries, expected num_hidden_layers (", c.layers, ")"));
  const bool decides = c.family->window != Window::None && c.family->window != Window::EveryLayer;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string type = list[i].is_string() ? list[i].as_string() : nn::ConfigReader::show(list[i]);
    const bool slides = type == "sliding_attention";
    if (!slides && type != "full_attention" && type != "attention")
      return reader.problem(
          concat("layer_types[", i, "] is ", nn::ConfigReader::show(list[i]), ", expected full_attention or sliding_attention"));
    if (decides) {
      if (slides && window == 0)
        return reader.problem(
            concat("layer_types[", i, "] is \"sliding_attention\", but use_sliding_window and sliding_window give no window"));
      c.windows[i] = slides ? window : 0;
    } else if ((c.windows[i] > 0) != slides) {
      return reader.problem(concat("layer_types[", i, "] is ", nn::ConfigReader::show(list[i]), ", but every layer of this model_type ",
                                   c.windows[i] > 0 ? "has a window" : "sees all tokens"));
    }
  }
}

void read_windows(nn::ConfigReader& reader, DecoderConfig& c) {
  c.windows.assign(static_cast<size_t>(c.layers), 0);
  const Window rule = c.family->window;
  int64_t window = 0;
  if (rule != Window::None) {
    // Absent: the class default. Null: none.
    window = reader.config().find("sliding_window") ? reader.optional_integer("sliding_window", 1, kMaxPositions).value_or(0)
                                                    : c.family->default_window;
  }
  if (c.family->window_flag && !reader.flag("use_sliding_window", false)) window = 0;
  if (rule == Window::LastLayers) {
    const int64_t first = reader.integer("max_window_layers", kDefaultMaxWindowLayers, -kMaxLayers, kMaxPositions);
    for (int64_t i = std::max<int64_t>(first, 0); i < c.layers; ++i) c.windows[static_cast<size_t>(i)] = window;
  }
  for (size_t i = 0; i < c.windows.size(); ++i)
    if (rule == Window::EveryLayer || (rule == Window::Alternating && i % 2 == 0) || (rule == Window::UnrotatedLayers && !c.rotates[i]))
      c.windows[i] = window;
  read_layer_types(reader, c, window);
}

// no_rope_layers holds 1 where a layer turns its heads, 0 where it does not.
void read_unrotated_layers(nn::ConfigReader& reader, DecoderConfig& c) {
  c.rotates.assign(static_cast<size_t>(c.layers), true);
  if (!c.family->unrotated_layers) return;
  const int64_t interval = reader.integer("no_rope_layer_interval", kDefaultNoRopeInterval, 1, kMaxPositions);
  for (int64_t i = 0; i < c.layers; ++i) c.rotates[static_cast<size_t>(i)] = (i + 1) % interval != 0;
  const Value* list = reader.config().find_set("no_rope_layers");
  if (!list) return;
  if (!list->is_list() || static_cast<int64_t>(list->as_list().size()) < c.layers)
    return reader.problem(concat("no_rope_layers is ", nn::ConfigReader::show(*list), ", expected a list of at least num_hidden_layers (",
                                 c.layers, ") ones and zeros"));
  for (size_t i = 0; i < c.rotates.size(); ++i) {
    const Value& entry = list->as_list()[i];
    if (!entry.is_int() && !entry.is_bool())
      return reader.problem(concat("no_rope_layers[", i, "] is ", nn::ConfigReader::show(entry), ", expected 1 or 0"));
    c.rotates[i] = entry.is_bool() ? entry.as_bool() : entry.as_int() != 0;
  }
}

double read_cap(nn::ConfigReader& reader, const char* key, double fallback) {
  if (reader.config().find(key) && !reader.config().find_set(key)) return 0;  // null: none
  return reader.number(key, fallback, 0, kMaxCap);
}

void read_scales(nn::ConfigReader& reader, DecoderConfig& c) {
  c.attention_scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
  if (!c.family->scaled) return;
  c.attention_scale = 1 / std::sqrt(reader.number("query_pre_attn_scalar", kDefaultQueryScalar, 1e-6, 1e9));
  c.attention_softcap = read_cap(reader, "attn_logit_softcapping", kDefaultAttentionCap);
  c.logit_softcap = read_cap(reader, "final_logit_softcapping", kDefaultLogitCap);
  if (const Value* both = reader.config().find_set("use_bidirectional_attention"); both && !(both->is_bool() && !both->as_bool()))
    reader.problem("use_bidirectional_attention is set: attention to later tokens is not supported for this model_type");
}

// mlp_only_layers: indices of layers that keep one mlp; of the others, every decoder_sparse_step-th has experts.
void read_dense_layers(nn::ConfigReader& reader, DecoderConfig& c) {
  const int64_t step = reader.integer("decoder_sparse_step", 1, 1, kMaxPositions);
  for (int64_t i = 0; i < c.layers; ++i) c.mixes[static_cast<size_t>(i)] = (i + 1) % step == 0;
  const Value* list = reader.config().find_set("mlp_only_layers");
  if (!list) return;
  if (!list->is_list()) return reader.problem(concat("mlp_only_layers is ", nn::ConfigReader::show(*list), ", expected a list"));
  for (size_t i = 0; i < list->as_list().size(); ++i) {
    const Value& layer = list->as_list()[i];
    if (!layer.is_int())
      return reader.problem(concat("mlp_only_layers[", i, "] is ", nn::ConfigReader::show(layer), ", expected the number of a layer"));
    if (layer.as_int() >= 0 && layer.as_int() < c.layers) c.mixes[static_cast<size_t>(layer.as_int())] = false;
  }
}

void read_mixture(nn::ConfigReader& reader, DecoderConfig& c) {
  const Mixture& mixture = c.family->mixture;
  c.mixes.assign(static_cast<size_t>(c.layers), false);
  if (mixture.experts == 0) return;
  // Both spellings are one attribute in transformers.
  const char* key = reader.config().find_set("num_local_experts") ? "num_local_experts" : "num_experts";
  c.experts = reader.integer(key, mixture.experts, mixture.has_dense_layers ? 0 : 1, kMaxExperts);
  if (c.experts == 0) return;
  c.top_k = reader.integer("num_experts_per_tok", mixture.top_k, 1, kMaxExperts);
  if (c.top_k > c.experts) reader.problem(concat("num_experts_per_tok is ", c.top_k, ", expected at most ", key, " (", c.experts, ")"));
  c.expert_width = mixture.width ? reader.integer("moe_intermediate_size", mixture.width, 1, kMaxWidth) : c.intermediate;
  c.expert_weights_normalized = mixture.always_normalized || reader.flag("norm_topk_prob", false);
  c.mixes.assign(static_cast<size_t>(c.layers), true);
  if (mixture.has_dense_layers) read_dense_layers(reader, c);
  // transformers' switch for the loss is the one for showing what it is made of.
  const double coefficient = reader.number("router_aux_loss_coef", 0.001, 0, 1e6);
  if (reader.flag("output_router_logits", false)) c.balance_coefficient = coefficient;
  if (reader.number("router_jitter_noise", 0, 0, 1) > 0)
    reader.problem("router_jitter_noise is set: noise on what goes into the router is not supported");
}

// What a config asks for beside the sizes: run without it, the model would be another one.
void refuse_unserved(nn::ConfigReader& reader, const Family& family) {
  reader.expect("is_causal", true, "attention to later tokens is not supported");
  if (const Value* layers = reader.config().find_set("per_layer_config"); layers && !(layers->is_table() && layers->as_table().empty()))
    reader.problem("per_layer_config is set: layers of different configs are not supported");
  nn::refuse_dropout(reader, family.dropouts);
}

void refuse_other_heads(nn::ConfigReader& reader) {
  const Value* names = reader.config().find_set("architectures");
  if (!names || !names->is_list()) return;
  for (const Value& name : names->as_list())
    if (name.is_string() && name.as_string().find("For") != std::string::npos && !name.as_string().ends_with("ForCausalLM") &&
        !name.as_string().ends_with("ForConditionalGeneration"))
      reader.problem(concat("architectures names ", nn::ConfigReader::show(name),
                            ", expected a model that ends in ForCausalLM: other heads are not supported"));
}
}  // namespace

const std::vector<Family>& families() {
  static const std::vector<Family> rows = {
      {.model_type = "llama",
       .summary = "Llama 1 to 3, and what follows their layout.",
       .vocab_size = 32000,
       .intermediate_size = 11008,
       .max_position_embeddings = 2048,
       .qkv_bias = Bias::AttentionBiasKey,
       .out_bias = Bias::AttentionBiasKey,
       .mlp_bias_key = true},
      {.model_type = "mistral",
       .summary = "Mistral: a sliding window on every layer.",
       .vocab_size = 32000,
       .intermediate_size = 14336,
       .max_position_embeddings = 131072,
       .kv_heads = 8,
       .window = Window::EveryLayer},
      {.model_type = "qwen2",
       .summary = "Qwen2 and 2.5: biases on q, k and v.",
       .vocab_size = 151936,
       .intermediate_size = 22016,
       .max_position_embeddings = 32768,
       .kv_heads = 32,
       .qkv_bias = Bias::Always,
       .window = Window::LastLayers,
       .window_flag = true},
      {.model_type = "qwen3",
       .summary = "Qwen3: norms on the heads of q and k.",
       .vocab_size = 151936,
       .intermediate_size = 22016,
       .max_position_embeddings = 32768,
       .kv_heads = 32,
       .head_dim = HeadDim::Given,
       .qkv_bias = Bias::AttentionBiasKey,
       .out_bias = Bias::AttentionBiasKey,
       .qk_norm = true,
       .window = Window::LastLayers,
       .window_flag = true},
      {.model_type = "mixtral",
       .summary = "Mixtral: Mistral with experts.",
       .vocab_size = 32000,
       .intermediate_size = 14336,
       .max_position_embeddings = 131072,
       .kv_heads = 8,
       .eps = 1e-5,
       .window = Window::EveryLayer,
       .default_window = 0,
       .mixture =
           {.experts = 8, .top_k = 2, .always_normalized = true, .file_block = ".block_sparse_moe", .gate = "w1", .up = "w3", .down = "w2"},
       .rotary = {.theta = 1e6}},
      {.model_type = "qwen3_moe",
       .summary = "Qwen3 with experts: 30B-A3B, 235B-A22B.",
       .vocab_size = 151936,
       .intermediate_size = 6144,
       .max_position_embeddings = 32768,
       .hidden_size = 2048,
       .layers = 24,
       .kv_heads = 4,
       .qkv_bias = Bias::AttentionBiasKey,
       .out_bias = Bias::AttentionBiasKey,
       .qk_norm = true,
       .window = Window::EveryLayer,
       .window_flag = true,
       .mixture = {.experts = 128, .top_k = 8, .width = 768, .has_dense_layers = true}},
      {.model_type = "gemma2",
       .summary = "Gemma 2: norms before and after, soft caps, every other layer with a window.",
       .vocab_size = 256000,
       .intermediate_size = 9216,
       .max_position_embeddings = 8192,
       .hidden_size = 2304,
       .layers = 26,
       .heads = 8,
       .kv_heads = 4,
       .head_dim = HeadDim::Given,
       .given_head_dim = 256,
       .tied = true,
       .activation_key = "hidden_activation",
       .activation = "gelu_pytorch_tanh",
       .qkv_bias = Bias::AttentionBiasKey,
       .out_bias = Bias::AttentionBiasKey,
       .norms = Norms::BeforeAndAfter,
       .norm_from_one = true,
       .scaled = true,
       .window = Window::Alternating},
      {.model_type = "phi3",
       .summary = "Phi 3, 3.5 and 4: fused projections, heads that turn in part, longrope.",
       .vocab_size = 32064,
       .intermediate_size = 8192,
       .max_position_embeddings = 4096,
       .hidden_size = 3072,
       .eps = 1e-5,
       .fused = true,
       .window = Window::EveryLayer,
       .default_window = 0,
       .dropouts = {"attention_dropout", "resid_pdrop"},
       .rotary = {.partial = true, .original_positions = 4096, .renamed_types = {{"su", "longrope"}, {"yarn", "longrope"}}},
       .recalls = true},
      {.model_type = "smollm3",
       .summary = "SmolLM3: every fourth layer without rotary positions.",
       .vocab_size = 128256,
       .intermediate_size = 11008,
       .max_position_embeddings = 32768,
       .hidden_size = 2048,
       .layers = 36,
       .heads = 16,
       .kv_heads = 4,
       .tied = true,
       .qkv_bias = Bias::AttentionBiasKey,
       .out_bias = Bias::AttentionBiasKey,
       .mlp_bias_key = true,
       .window = Window::UnrotatedLayers,
       .default_window = 0,
       .window_flag = true,
       .unrotated_layers = true,
       .rotary = {.theta = 2e6}},
  };
  return rows;
}

const Family& family_of(const std::string& model_type) {
  for (const Family& family : families())
    if (model_type == family.model_type) return family;
  fail(ErrorCode::Internal, "no family '", model_type, "' in this plugin");
}

DecoderConfig read_config(const Family& family, const Value& config) {
  nn::ConfigReader reader(config);
  DecoderConfig c;
  c.family = &family;
  c.vocab_size = reader.integer("vocab_size", family.vocab_size, 1, kMaxVocab);
  c.hidden = reader.integer("hidden_size", family.hidden_size, 1, kMaxWidth);
  c.intermediate = reader.integer("intermediate_size", family.intermediate_size, 1, kMaxWidth);
  c.layers = reader.integer("num_hidden_layers", family.layers, 1, kMaxLayers);
  c.max_positions = reader.integer("max_position_embeddings", family.max_position_embeddings, 1, kMaxPositions);
  c.eps = reader.number("rms_norm_eps", family.eps, 0, 1);
  c.tied = reader.flag("tie_word_embeddings", family.tied);
  read_heads(reader, c);

  const bool attention_bias = family.qkv_bias == Bias::AttentionBiasKey && reader.flag("attention_bias", false);
  c.qkv_bias = family.qkv_bias == Bias::Always || attention_bias;
  c.out_bias = family.out_bias == Bias::Always || (family.out_bias == Bias::AttentionBiasKey && attention_bias);
  c.mlp_bias = family.mlp_bias_key && reader.flag("mlp_bias", false);

  c.activation = reader.text(family.activation_key, family.activation);
  if (!nn::has_activation(c.activation)) {
    std::string known;
    for (const auto& name : nn::activation_names()) known += (known.empty() ? "" : ", ") + name;
    reader.problem(concat(family.activation_key, " is ", nn::ConfigReader::show(Value(c.activation)), ", expected one of ", known));
  }
  read_unrotated_layers(reader, c);
  read_windows(reader, c);
  read_scales(reader, c);
  read_mixture(reader, c);
  c.rotary = nn::read_rotary(reader, c.head_dim, c.max_positions, family.rotary);
  if (family.recalls && c.rotary.at_length)
    c.recalled_beyond = reader.integer("original_max_position_embeddings", family.rotary.original_positions, 1, kMaxPositions);
  c.dtype = nn::config_dtype(reader);
  refuse_unserved(reader, family);
  refuse_other_heads(reader);
  reader.finish(family.model_type);
  return c;
}

}  // namespace tenon::llama
