#include "config.h"

#include <algorithm>

#include "tenon/nn/config_reader.h"

namespace tenon::lfm2 {

namespace {

// Bounds far above any model, far below where products of them overflow.
constexpr int64_t kMaxVocab = int64_t{1} << 24, kMaxWidth = int64_t{1} << 20, kMaxLayers = 4096, kMaxHeads = 1 << 14, kMaxKernel = 1024,
                  kMaxPositions = int64_t{1} << 40;
constexpr double kTheta = 1e6;

void read_heads(nn::ConfigReader& reader, Config& c) {
  c.heads = reader.integer("num_attention_heads", 32, 1, kMaxHeads);
  c.kv_heads = reader.integer("num_key_value_heads", 8, 1, kMaxHeads);
  if (c.heads % c.kv_heads)
    reader.problem(concat("num_key_value_heads is ", c.kv_heads, ", expected a divisor of num_attention_heads (", c.heads, ")"));
  const auto given = reader.optional_integer("head_dim", 1, kMaxWidth);
  c.head_dim = given.value_or(c.hidden / c.heads);
  if (!given && c.hidden % c.heads)
    reader.problem(concat("hidden_size is ", c.hidden, ", expected a multiple of num_attention_heads (", c.heads, ")"));
  if (c.heads * c.head_dim > kMaxWidth)
    reader.problem(concat("num_attention_heads times head_dim is ", c.heads * c.head_dim, ", expected ", kMaxWidth, " or less"));
}

// block_ff_dim is the older name. Widths are those of an mlp with two matrices: with three, two thirds, and whole multiples.
void read_intermediate(nn::ConfigReader& reader, Config& c) {
  const char* key = reader.config().find("block_ff_dim") ? "block_ff_dim" : "intermediate_size";
  c.intermediate = reader.integer(key, 12288, 1, kMaxWidth);
  const bool adjusts = reader.flag("block_auto_adjust_ff_dim", true);
  const int64_t multiple = reader.integer("block_multiple_of", 256, 1, kMaxWidth);
  const double factor = reader.number("block_ffn_dim_multiplier", 1, 0, 1024);
  if (!adjusts) return;
  // In floating point and cut off, as the reference counts.
  c.intermediate = static_cast<int64_t>(static_cast<double>(2 * c.intermediate) / 3);
  c.intermediate = static_cast<int64_t>(factor * static_cast<double>(c.intermediate));
  c.intermediate = (c.intermediate + multiple - 1) / multiple * multiple;
  if (c.intermediate < 1 || c.intermediate > kMaxWidth)
    reader.problem(
        concat(key, ", block_ffn_dim_multiplier and block_multiple_of make an mlp ", c.intermediate, " wide, expected 1 to ", kMaxWidth));
}

void read_layer_types(nn::ConfigReader& reader, const Value& types, Config& c) {
  if (!types.is_list()) return reader.problem(concat("layer_types is ", nn::ConfigReader::show(types), ", expected a list"));
  const Value::List& list = types.as_list();
  if (static_cast<int64_t>(list.size()) != c.layers)
    return reader.problem(concat("layer_types has ", list.size(), " entries, expected num_hidden_layers (", c.layers, ")"));
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i] != Value("conv") && list[i] != Value("full_attention"))
      return reader.problem(concat("layer_types[", i, "] is ", nn::ConfigReader::show(list[i]), ", expected conv or full_attention"));
    c.attends[i] = list[i] == Value("full_attention");
  }
}

// layer_types wins over full_attn_idxs; without either, all layers attend.
void read_layers(nn::ConfigReader& reader, Config& c) {
  c.layers = reader.integer("num_hidden_layers", 32, 1, kMaxLayers);
  c.attends.assign(static_cast<size_t>(c.layers), true);
  if (const Value* types = reader.config().find_set("layer_types")) return read_layer_types(reader, *types, c);
  const Value* indices = reader.config().find_set("full_attn_idxs");
  if (!indices) return;
  if (!indices->is_list() ||
      !std::all_of(indices->as_list().begin(), indices->as_list().end(), [](const Value& index) { return index.is_int(); }))
    return reader.problem(concat("full_attn_idxs is ", nn::ConfigReader::show(*indices), ", expected a list of layers"));
  c.attends.assign(static_cast<size_t>(c.layers), false);
  for (const Value& index : indices->as_list())
    if (index.as_int() >= 0 && index.as_int() < c.layers) c.attends[static_cast<size_t>(index.as_int())] = true;
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

int64_t Config::attention_layers() const { return std::count(attends.begin(), attends.end(), true); }

Config read_config(const Value& config) {
  nn::ConfigReader reader(config);
  Config c;
  c.vocab_size = reader.integer("vocab_size", 65536, 1, kMaxVocab);
  c.hidden = reader.integer("hidden_size", 2560, 1, kMaxWidth);
  c.max_positions = reader.integer("max_position_embeddings", 128000, 1, kMaxPositions);
  c.eps = reader.number("norm_eps", 1e-5, 0, 1);
  // tie_embedding is the older name, and wins.
  c.tied = reader.flag("tie_word_embeddings", true);
  c.tied = reader.flag("tie_embedding", c.tied);
  c.conv_bias = reader.flag("conv_bias", false);
  c.kernel = reader.integer("conv_L_cache", 3, 1, kMaxKernel);
  read_heads(reader, c);
  read_intermediate(reader, c);
  read_layers(reader, c);
  c.rotary = nn::read_rotary(reader, c.head_dim, c.max_positions, {.theta = kTheta});
  c.dtype = nn::config_dtype(reader);
  reader.expect("is_causal", true, "attention to later tokens is not supported");
  refuse_other_heads(reader);
  reader.finish("lfm2");
  return c;
}

}  // namespace tenon::lfm2
