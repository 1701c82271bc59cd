#include "families.h"

#include <algorithm>

#include "tenon/nn/activation.h"
#include "tenon/nn/config_reader.h"

namespace tenon::llama {

namespace {
// Bounds far above any model, far below where products of them overflow.
constexpr int64_t kMaxVocab = int64_t{1} << 24, kMaxWidth = int64_t{1} << 20, kMaxLayers = 4096, kMaxHeads = 1 << 14,
                  kMaxPositions = int64_t{1} << 40;
constexpr int64_t kDefaultHidden = 4096, kDefaultLayers = 32, kDefaultHeads = 32, kDefaultHeadDim = 128, kDefaultWindow = 4096,
                  kDefaultMaxWindowLayers = 28;

void read_heads(nn::ConfigReader& reader, DecoderConfig& c) {
  const Family& family = *c.family;
  c.heads = reader.integer("num_attention_heads", kDefaultHeads, 1, kMaxHeads);
  c.kv_heads = family.kv_heads ? family.kv_heads : c.heads;
  if (reader.config().find("num_key_value_heads"))
    c.kv_heads = reader.optional_integer("num_key_value_heads", 1, kMaxHeads).value_or(c.heads);
  if (c.heads % c.kv_heads)
    reader.problem(concat("num_key_value_heads is ", c.kv_heads, ", expected a divisor of num_attention_heads (", c.heads, ")"));

  if (family.head_dim == HeadDim::Given) {
    c.head_dim = reader.integer("head_dim", kDefaultHeadDim, 1, kMaxWidth);
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

void read_layer_types(nn::ConfigReader& reader, DecoderConfig& c, int64_t window) {
  const Value* types = reader.config().find_set("layer_types");
  if (!types) return;
  if (!types->is_list()) return reader.problem(concat("layer_types is ", nn::ConfigReader::show(*types), ", expected a list"));
  const Value::List& list = types->as_list();
  if (static_cast<int64_t>(list.size()) != c.layers)
    return reader.problem(concat("layer_types has ", list.size(), " entries, expected num_hidden_layers (", c.layers, ")"));
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string type = list[i].is_string() ? list[i].as_string() : nn::ConfigReader::show(list[i]);
    const bool slides = type == "sliding_attention";
    if (!slides && type != "full_attention" && type != "attention")
      return reader.problem(
          concat("layer_types[", i, "] is ", nn::ConfigReader::show(list[i]), ", expected full_attention or sliding_attention"));
    if (c.family->window == Window::ByLayer) {
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
  int64_t window = 0;
  if (c.family->window != Window::None) {
    // Absent: the class default. Null: none.
    window =
        reader.config().find("sliding_window") ? reader.optional_integer("sliding_window", 1, kMaxPositions).value_or(0) : kDefaultWindow;
  }
  if (c.family->window == Window::EveryLayer) c.windows.assign(c.windows.size(), window);
  if (c.family->window == Window::ByLayer) {
    if (!reader.flag("use_sliding_window", false)) window = 0;
    const int64_t first = reader.integer("max_window_layers", kDefaultMaxWindowLayers, -kMaxLayers, kMaxPositions);
    for (int64_t i = std::max<int64_t>(first, 0); i < c.layers; ++i) c.windows[static_cast<size_t>(i)] = window;
  }
  read_layer_types(reader, c, window);
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
      // model_type, summary, vocab, intermediate, positions, kv heads, head_dim, q/k/v bias, o bias, mlp_bias, q/k norm, window
      {"llama", "Llama 1 to 3, and what follows their layout.", 32000, 11008, 2048, 0, HeadDim::Derived, Bias::AttentionBiasKey,
       Bias::AttentionBiasKey, true, false, Window::None},
      {"mistral", "Mistral: a sliding window on every layer.", 32000, 14336, 131072, 8, HeadDim::Derived, Bias::Never, Bias::Never, false,
       false, Window::EveryLayer},
      {"qwen2", "Qwen2 and 2.5: biases on q, k and v.", 151936, 22016, 32768, 32, HeadDim::Derived, Bias::Always, Bias::Never, false, false,
       Window::ByLayer},
      {"qwen3", "Qwen3: norms on the heads of q and k.", 151936, 22016, 32768, 32, HeadDim::Given, Bias::AttentionBiasKey,
       Bias::AttentionBiasKey, false, true, Window::ByLayer},
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
  c.hidden = reader.integer("hidden_size", kDefaultHidden, 1, kMaxWidth);
  c.intermediate = reader.integer("intermediate_size", family.intermediate_size, 1, kMaxWidth);
  c.layers = reader.integer("num_hidden_layers", kDefaultLayers, 1, kMaxLayers);
  c.max_positions = reader.integer("max_position_embeddings", family.max_position_embeddings, 1, kMaxPositions);
  c.eps = reader.number("rms_norm_eps", 1e-6, 0, 1);
  c.tied = reader.flag("tie_word_embeddings", false);
  read_heads(reader, c);

  const bool attention_bias = family.qkv_bias == Bias::AttentionBiasKey && reader.flag("attention_bias", false);
  c.qkv_bias = family.qkv_bias == Bias::Always || attention_bias;
  c.out_bias = family.out_bias == Bias::Always || (family.out_bias == Bias::AttentionBiasKey && attention_bias);
  c.mlp_bias = family.mlp_bias_key && reader.flag("mlp_bias", false);

  c.activation = reader.text("hidden_act", "silu");
  if (!nn::has_activation(c.activation)) {
    std::string known;
    for (const auto& name : nn::activation_names()) known += (known.empty() ? "" : ", ") + name;
    reader.problem(concat("hidden_act is ", nn::ConfigReader::show(Value(c.activation)), ", expected one of ", known));
  }
  read_windows(reader, c);
  c.rotary = nn::read_rotary(reader, c.head_dim, c.max_positions);
  c.dtype = nn::config_dtype(reader);
  refuse_other_heads(reader);
  reader.finish(family.model_type);
  return c;
}

}  // namespace tenon::llama
