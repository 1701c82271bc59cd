#include "qwen_config.h"

#include <numeric>

#include "limits.h"
#include "tenon/nn/activation.h"
#include "tenon/nn/config_reader.h"

namespace tenon::vlm {

namespace {

constexpr double kVisionTheta = 10000, kTextTheta = 1e6;

// What the text config's class says where the file is silent; qwen2's own class says otherwise.
Value text_defaults() {
  return Value(Value::Table{{"vocab_size", 152064},
                            {"hidden_size", 8192},
                            {"intermediate_size", 29568},
                            {"num_hidden_layers", 80},
                            {"num_attention_heads", 64},
                            {"num_key_value_heads", 8},
                            {"max_position_embeddings", 32768},
                            {"rms_norm_eps", 1e-5},
                            {"sliding_window", 4096},
                            {"max_window_layers", 80}});
}

struct VisionDefaults {
  int64_t hidden, out;
  const char* activation;
};
constexpr VisionDefaults kVision2 = {1280, 3584, "quick_gelu"}, kVision25 = {3584, 3584, "silu"};

const Value* table_of(nn::ConfigReader& reader, const char* key) {
  const Value* value = reader.config().find_set(key);
  if (!value || value->is_table()) return value;
  reader.problem(concat(key, " is ", nn::ConfigReader::show(*value), ", expected a table"));
  return nullptr;
}

// Two spellings of one key.
int64_t either(nn::ConfigReader& reader, const char* key, const char* other, int64_t fallback, int64_t max) {
  return reader.integer(reader.config().find(key) || !reader.config().find(other) ? key : other, fallback, 1, max);
}

std::vector<int64_t> integers(nn::ConfigReader& reader, const std::string& name, const Value& value, int64_t max) {
  std::vector<int64_t> numbers;
  if (value.is_list())
    for (const Value& item : value.as_list())
      if (item.is_int() && item.as_int() >= 0 && item.as_int() <= max) numbers.push_back(item.as_int());
  if (!value.is_list() || numbers.size() != value.as_list().size())
    reader.problem(concat(name, " is ", nn::ConfigReader::show(value), ", expected a list of numbers from 0 to ", max));
  return numbers;
}

void read_vision_rotary(nn::ConfigReader& reader, QwenVisionConfig& c) {
  c.rope_theta = reader.number("rope_theta", kVisionTheta, 1e-3, 1e15);
  const Value* rope = table_of(reader, "rope_parameters");
  if (!rope) return;
  const Value type = rope->find_set("rope_type") ? *rope->find_set("rope_type") : Value("axial");
  if (!(type.is_string() && (type.as_string() == "axial" || type.as_string() == "default")))
    reader.problem(
        concat("rope_parameters.rope_type is ", nn::ConfigReader::show(type), ", expected axial: others are not served in a tower"));
  nn::ConfigReader inner(*rope);
  c.rope_theta = inner.number("rope_theta", c.rope_theta, 1e-3, 1e15);
  if (!inner.ok())
    reader.problem(concat("rope_parameters.rope_theta is ", nn::ConfigReader::show(*rope->find("rope_theta")), ", expected a number"));
}

void read_windows(nn::ConfigReader& reader, QwenVisionConfig& c) {
  c.sees_all.assign(static_cast<size_t>(c.layers), true);
  if (!c.is_windowed) return;
  const int64_t pixels = reader.integer("window_size", 112, 1, int64_t{1} << 20);
  c.window = pixels / c.merge / c.patch;
  if (c.window < 1)
    reader.problem(concat("window_size is ", pixels, ", expected ", c.merge * c.patch, " or more: a token is so many pixels wide"));
  const Value* full = reader.config().find("fullatt_block_indexes");
  c.sees_all.assign(static_cast<size_t>(c.layers), false);
  for (const int64_t i : full ? integers(reader, "fullatt_block_indexes", *full, kMaxLayers) : std::vector<int64_t>{7, 15, 23, 31})
    if (i < c.layers) c.sees_all[static_cast<size_t>(i)] = true;
  c.tokens_per_second = static_cast<double>(reader.integer("tokens_per_second", 4, 0, kMaxToken));
}

QwenVisionConfig read_vision(const QwenFamily& family, const Value& config) {
  nn::ConfigReader reader(config);
  const VisionDefaults& defaults = family.is_windowed ? kVision25 : kVision2;
  const std::string type = reader.text("model_type", concat(family.model_type, "_vision"));
  if (type != family.model_type && type != concat(family.model_type, "_vision"))
    reader.problem(concat("model_type is '", type, "', expected ", family.model_type, "_vision: other towers are not served here"));
  QwenVisionConfig c;
  c.is_windowed = family.is_windowed;
  c.layers = either(reader, "depth", "num_hidden_layers", 32, kMaxLayers);
  c.heads = either(reader, "num_heads", "num_attention_heads", 16, kMaxHeads);
  c.channels = reader.integer("in_channels", 3, 1, 64);
  c.patch = reader.integer("patch_size", 14, 1, kMaxImageSize);
  c.temporal_patch = reader.integer("temporal_patch_size", 2, 1, 64);
  c.merge = reader.integer("spatial_merge_size", 2, 1, 64);
  c.activation = reader.text("hidden_act", defaults.activation);
  if (family.is_windowed) {
    c.hidden = reader.integer("hidden_size", defaults.hidden, 1, kMaxWidth);
    c.out = reader.integer("out_hidden_size", defaults.out, 1, kMaxWidth);
    c.intermediate = reader.integer("intermediate_size", 3420, 1, kMaxWidth);
  } else {
    c.hidden = reader.integer("embed_dim", defaults.hidden, 1, kMaxWidth);
    c.out = reader.integer("hidden_size", defaults.out, 1, kMaxWidth);
    c.intermediate = static_cast<int64_t>(static_cast<double>(c.hidden) * reader.number("mlp_ratio", 4, 1e-3, 1024));
  }
  if (c.hidden % c.heads || c.hidden / c.heads % 4)
    reader.problem(concat(family.is_windowed ? "hidden_size" : "embed_dim", " is ", c.hidden, ", expected num_heads (", c.heads,
                          ") times a multiple of 4: half of a head turns with the row, half with the column"));
  if (c.channels != 3) reader.problem(concat("in_channels is ", c.channels, ", expected 3: pictures are read as red, green and blue"));
  if (!nn::has_activation(c.activation))
    reader.problem(concat("hidden_act is ", nn::ConfigReader::show(Value(c.activation)), ", which is no activation that is served"));
  read_vision_rotary(reader, c);
  read_windows(reader, c);
  reader.finish(concat(family.model_type, "_vision"));
  return c;
}

const Value* rotary_table(const Value& config) {
  for (const char* key : {"rope_scaling", "rope_parameters"})
    if (const Value* table = config.find_set(key); table && table->is_table() && !table->as_table().empty()) return table;
  return nullptr;
}

// Rotary settings beside the text model's table (a recipe's override or patch) are meant for it; what they do not say stays.
void override_rotary(const Value& config, Value& text) {
  if (const Value* outer = rotary_table(config)) {
    Value table = *outer;
    if (const Value* inner = rotary_table(text))
      for (const char* key : {"mrope_section", "rope_theta"})
        if (const Value* value = inner->find_set(key); value && !table.find_set(key)) table.set(key, *value);
    text.erase("rope_scaling");
    text.set("rope_parameters", table);
  }
  for (const char* key : {"rope_theta", "max_position_embeddings"})
    if (const Value* value = config.find_set(key)) text.set(key, *value);
}

// Rotary settings as qwen2 reads them, and the sections taken out.
void settle_rotary(nn::ConfigReader& reader, QwenVlConfig& c) {
  Value rope = rotary_table(c.text) ? *rotary_table(c.text) : Value::table();
  const Value* type = rope.find_set("rope_type") ? rope.find_set("rope_type") : rope.find_set("type");
  const Value resolved = type && !(*type == Value("mrope")) ? *type : Value("default");
  rope.erase("type");
  rope.set("rope_type", resolved);
  if (!rope.find_set("rope_theta"))
    rope.set("rope_theta", c.text.find_set("rope_theta") ? *c.text.find_set("rope_theta") : Value(kTextTheta));
  const Value sections = rope.find("mrope_section") ? *rope.find("mrope_section") : Value(Value::List{16, 24, 24});
  rope.erase("mrope_section");
  c.text.erase("rope_scaling"), c.text.erase("rope_theta");
  c.text.set("rope_parameters", rope);

  nn::ConfigReader text(c.text);
  const int64_t heads = text.integer("num_attention_heads", 1, 1, kMaxHeads), hidden = text.integer("hidden_size", 1, 1, kMaxWidth);
  if (!text.ok()) return;  // qwen2 says it better
  if (const Value* given = c.text.find_set("head_dim"); given && !(*given == Value(hidden / heads)))
    reader.problem(concat("head_dim is ", nn::ConfigReader::show(*given), ", expected hidden_size / num_attention_heads (", hidden / heads,
                          "): this model_type has no other"));
  c.sections = integers(reader, "mrope_section", sections, kMaxWidth);
  const int64_t sum = std::accumulate(c.sections.begin(), c.sections.end(), int64_t{0});
  if (reader.ok() && (sum != hidden / heads / 2 || c.sections.empty()))
    reader.problem(concat("mrope_section (of rope_scaling or rope_parameters) adds up to ", sum, ", expected half of a head (",
                          hidden / heads / 2, ")"));
}

}  // namespace

QwenVlConfig read_qwen_config(const QwenFamily& family, const Value& config) {
  nn::ConfigReader reader(config);
  QwenVlConfig c;
  c.family = &family;
  const Value* vision = table_of(reader, "vision_config");
  const Value* nested = table_of(reader, "text_config");
  reader.finish(family.model_type);
  c.vision = with_context("vision_config", [&] { return read_vision(family, vision ? *vision : Value::table()); });

  c.text = nested ? *nested : config;
  c.text.erase("vision_config");
  if (nested)
    for (const char* key : {"dtype", "torch_dtype"})
      if (const Value* dtype = config.find_set(key); dtype && !c.text.find_set(key)) c.text.set(key, *dtype);
  if (nested) override_rotary(config, c.text);
  c.text.set("model_type", "qwen2");
  const Value defaults = text_defaults();
  for (const auto& [key, value] : defaults.as_table())
    if (!c.text.find(key)) c.text.set(key, value);
  const bool tied = reader.flag("tie_word_embeddings", false) || c.text.bool_or("tie_word_embeddings", false);
  c.text.set("tie_word_embeddings", tied);
  settle_rotary(reader, c);

  c.image_token = reader.integer("image_token_id", 151655, 0, kMaxToken);
  c.video_token = reader.integer("video_token_id", 151656, 0, kMaxToken);
  if (c.image_token == c.video_token) reader.problem(concat("image_token_id and video_token_id are both ", c.image_token));
  if (const Value* hidden = c.text.find("hidden_size"); hidden->is_int() && hidden->as_int() != c.vision.out)
    reader.problem(concat("vision_config.", family.is_windowed ? "out_hidden_size" : "hidden_size", " is ", c.vision.out,
                          ", expected text_config.hidden_size (", hidden->as_int(), ")"));
  reader.finish(family.model_type);
  return c;
}

}  // namespace tenon::vlm
