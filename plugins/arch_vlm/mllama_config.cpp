#include "mllama_config.h"

#include <algorithm>
#include <optional>

#include "config_table.h"
#include "limits.h"
#include "tenon/nn/activation.h"
#include "tenon/nn/config_reader.h"

namespace tenon::vlm {

namespace {

constexpr int64_t kMaxTiles = 64, kDefaultTiles = 4;

void check_type(nn::ConfigReader& reader, const char* expected) {
  if (const std::string type = reader.text("model_type", expected); type != expected)
    reader.problem(concat("model_type is '", type, "', expected ", expected, ": no other is served here"));
}

std::optional<std::vector<int64_t>> integers(nn::ConfigReader& reader, const char* key) {
  const Value* value = reader.config().find_set(key);
  if (!value) return std::nullopt;
  std::vector<int64_t> all;
  if (value->is_list())
    for (const Value& item : value->as_list())
      if (item.is_int()) all.push_back(item.as_int());
  if (!value->is_list() || all.size() != value->as_list().size())
    reader.problem(concat(key, " is ", nn::ConfigReader::show(*value), ", expected a list of whole numbers"));
  return all;
}

// Which pairs there are is the image processor's to know; the tower holds a row of its tables for each.
int64_t count_ratios(nn::ConfigReader& reader, int64_t max_tiles) {
  const Value* value = reader.config().find_set("supported_aspect_ratios");
  if (!value) {
    if (max_tiles != kDefaultTiles)
      reader.problem(concat("max_num_tiles is ", max_tiles, " without supported_aspect_ratios, whose default is for ", kDefaultTiles));
    return 8;
  }
  const auto is_pair = [&](const Value& pair) {
    return pair.is_list() && pair.as_list().size() == 2 &&
           std::all_of(pair.as_list().begin(), pair.as_list().end(), [&](const Value& n) { return n.is_int() && n.as_int() >= 1; });
  };
  if (!value->is_list() || value->as_list().empty() || !std::all_of(value->as_list().begin(), value->as_list().end(), is_pair)) {
    reader.problem(concat("supported_aspect_ratios is ", nn::ConfigReader::show(*value), ", expected a list of pairs of numbers of tiles"));
    return 1;
  }
  return static_cast<int64_t>(value->as_list().size());
}

void read_feature_layers(nn::ConfigReader& reader, MllamaVisionConfig& c) {
  for (const int64_t i : integers(reader, "intermediate_layers_indices").value_or(std::vector<int64_t>{3, 7, 15, 23, 30})) {
    if (i < -c.layers || i >= c.layers)
      return reader.problem(concat("intermediate_layers_indices holds ", i, ", expected numbers from ", -c.layers, " to ", c.layers - 1,
                                   ": num_hidden_layers is ", c.layers));
    c.feature_layers.push_back(i < 0 ? i + c.layers : i);
  }
  if (c.feature_layers.empty()) return reader.problem("intermediate_layers_indices is [], expected at least one layer");
  if (const int64_t made = c.hidden * static_cast<int64_t>(c.feature_layers.size() + 1); c.out != made)
    reader.problem(concat("vision_output_dim is ", c.out, ", expected ", made, ": hidden_size (", c.hidden,
                          ") for the last layer and each of ", c.feature_layers.size(), " in intermediate_layers_indices"));
}

MllamaVisionConfig read_vision(const Value& config) {
  nn::ConfigReader reader(config);
  check_type(reader, "mllama_vision_model");
  MllamaVisionConfig c;
  c.hidden = reader.integer("hidden_size", 1280, 1, kMaxWidth);
  c.intermediate = reader.integer("intermediate_size", 5120, 1, kMaxWidth);
  c.layers = reader.integer("num_hidden_layers", 32, 1, kMaxLayers);
  c.global_layers = reader.integer("num_global_layers", 8, 1, kMaxLayers);
  // Both names are one attribute in transformers.
  c.heads = reader.integer(config.find("num_attention_heads") ? "num_attention_heads" : "attention_heads", 16, 1, kMaxHeads);
  c.channels = reader.integer("num_channels", 3, 1, 64);
  c.image_size = reader.integer("image_size", 448, 1, kMaxImageSize);
  c.patch = reader.integer("patch_size", 14, 1, kMaxImageSize);
  c.eps = reader.number("norm_eps", 1e-5, 0, 1);
  c.out = reader.integer("vision_output_dim", 7680, 1, kMaxWidth);
  c.max_tiles = reader.integer("max_num_tiles", kDefaultTiles, 1, kMaxTiles);
  c.aspect_ratios = count_ratios(reader, c.max_tiles);
  c.activation = reader.text("hidden_act", "gelu");
  read_feature_layers(reader, c);
  if (c.hidden % c.heads) reader.problem(concat("hidden_size is ", c.hidden, ", expected a multiple of attention_heads (", c.heads, ")"));
  if (c.channels != 3) reader.problem(concat("num_channels is ", c.channels, ", expected 3: pictures are read as red, green and blue"));
  if (c.image_size < c.patch) reader.problem(concat("image_size is ", c.image_size, ", expected patch_size (", c.patch, ") or more"));
  if (!nn::has_activation(c.activation))
    reader.problem(concat("hidden_act is ", nn::ConfigReader::show(Value(c.activation)), ", which is no activation that is served"));
  reader.finish("mllama_vision_model");
  return c;
}

// What MllamaTextConfig takes where a file is silent, in llama's words.
Value text_defaults() {
  Value config = Value::table();
  config.set("vocab_size", 128256), config.set("hidden_size", 4096), config.set("intermediate_size", 14336);
  config.set("num_hidden_layers", 40), config.set("num_attention_heads", 32), config.set("num_key_value_heads", 8);
  config.set("rms_norm_eps", 1e-5), config.set("max_position_embeddings", 131072), config.set("hidden_act", "silu");
  return config;
}

constexpr double kTheta = 500000;

// Of the three places where a file may say it.
bool says_theta(const Value& text) {
  for (const char* key : {"rope_parameters", "rope_scaling"})
    if (const Value* table = text.find_set(key); table && table->is_table() && table->find_set("rope_theta")) return true;
  return text.find_set("rope_theta") != nullptr;
}

void read_text(const Value& given, MllamaConfig& c) {
  nn::ConfigReader reader(given);
  check_type(reader, "mllama_text_model");
  const Value defaults = text_defaults();
  c.text = Value::table();
  // Keys of llama's that this class does not have are not llama's to act on.
  for (const auto& [key, value] : defaults.as_table()) c.text.set(key, given.find(key) ? *given.find(key) : value);
  for (const char* key : {"rope_parameters", "rope_scaling", "rope_theta", "is_causal", "per_layer_config", "dtype", "torch_dtype"})
    if (const Value* value = given.find(key)) c.text.set(key, *value);
  if (!says_theta(given)) c.text.set("rope_theta", kTheta);
  c.text.set("model_type", "llama");
  // The head has rows of its own whatever this says: it has fewer than the embedding.
  reader.flag("tie_word_embeddings", false);
  c.text.set("tie_word_embeddings", false);

  nn::ConfigReader text(c.text);
  const int64_t layers = text.integer("num_hidden_layers", 1, 1, kMaxLayers);
  c.text_hidden = text.integer("hidden_size", 1, 1, kMaxWidth);
  c.heads = text.integer("num_attention_heads", 1, 1, kMaxHeads);
  c.kv_heads = text.integer("num_key_value_heads", 1, 1, kMaxHeads);
  c.vocab = text.integer("vocab_size", 1, 1, kMaxToken);
  c.eps = text.number("rms_norm_eps", 1e-5, 0, 1);
  text.finish("mllama_text_model");
  if (c.text_hidden % c.heads)
    reader.problem(concat("hidden_size is ", c.text_hidden, ", expected a multiple of num_attention_heads (", c.heads, ")"));
  if (const Value* given_dim = given.find_set("head_dim"); given_dim && !(*given_dim == Value(c.head_dim())))
    reader.problem(concat("head_dim is ", nn::ConfigReader::show(*given_dim), ", expected hidden_size / num_attention_heads (",
                          c.head_dim(), "): this model_type has no other"));
  nn::refuse_dropout(reader, {"dropout"});
  c.looks.assign(static_cast<size_t>(layers), false);
  for (const int64_t i : integers(reader, "cross_attention_layers").value_or(std::vector<int64_t>{3, 8, 13, 18, 23, 28, 33, 38}))
    if (i >= 0 && i < layers) c.looks[static_cast<size_t>(i)] = true;
  reader.finish("mllama_text_model");
}

}  // namespace

MllamaConfig read_mllama_config(const Value& config) {
  nn::ConfigReader reader(config);
  MllamaConfig c;
  const Value vision = config_table(reader, "vision_config");
  Value text = config_table(reader, "text_config");
  reader.finish("mllama");
  for (const char* key : {"dtype", "torch_dtype"})
    if (const Value* dtype = config.find_set(key); dtype && !text.find_set(key)) text.set(key, *dtype);
  // Rotary settings beside the two tables (a recipe's override or patch) are meant for the text model.
  for (const char* key : {"rope_parameters", "rope_scaling", "rope_theta", "max_position_embeddings"})
    if (const Value* value = config.find_set(key)) text.set(key, *value);
  c.vision = with_context("vision_config", [&] { return read_vision(vision); });
  with_context("text_config", [&] { read_text(text, c); });

  reader.flag("tie_word_embeddings", false);
  c.image_token = reader.integer(
      config.find("image_token_index") || !config.find("image_token_id") ? "image_token_index" : "image_token_id", 128256, 0, kMaxToken);
  if (c.image_token >= c.vocab + kExtraRows)
    reader.problem(concat("image_token_index is ", c.image_token, ", expected less than ", c.vocab + kExtraRows, ": the embedding has ",
                          kExtraRows, " rows more than text_config.vocab_size"));
  reader.finish("mllama");
  return c;
}

}  // namespace tenon::vlm
