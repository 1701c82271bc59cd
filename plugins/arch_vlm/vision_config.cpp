#include "vision_config.h"

#include <cmath>

#include "limits.h"
#include "tenon/nn/activation.h"
#include "tenon/nn/config_reader.h"

namespace tenon::vlm {

namespace {

constexpr int64_t kMaxPatches = 1 << 14;

struct Defaults {
  const char* model_type;
  TowerKind kind;
  int64_t patch;
  const char* activation;
  double eps;
};
constexpr Defaults kTowers[] = {
    {"clip_vision_model", TowerKind::Clip, 32, "quick_gelu", 1e-5},
    {"siglip_vision_model", TowerKind::Siglip, 16, "gelu_pytorch_tanh", 1e-6},
    {"siglip2_vision_model", TowerKind::Siglip2, 16, "gelu_pytorch_tanh", 1e-6},
};

// One number, or a list of two equal ones.
int64_t square(nn::ConfigReader& reader, const char* key, int64_t fallback) {
  const Value* value = reader.config().find_set(key);
  if (!value || !value->is_list()) return reader.integer(key, fallback, 1, kMaxImageSize);
  const Value::List& list = value->as_list();
  if (list.size() == 2 && list[0].is_int() && list[0] == list[1] && list[0].as_int() > 0 && list[0].as_int() <= kMaxImageSize)
    return list[0].as_int();
  reader.problem(concat(key, " is ", nn::ConfigReader::show(*value), ", expected one number or two equal ones: only squares are served"));
  return fallback;
}

// As many patches as a square has.
int64_t read_naflex_size(nn::ConfigReader& reader, int64_t patch) {
  const int64_t patches = reader.integer("num_patches", 256, 1, kMaxPatches);
  const auto side = static_cast<int64_t>(std::sqrt(static_cast<double>(patches)));
  if (side * side != patches)
    reader.problem(concat("num_patches is ", patches, ", expected a square number: positions are resized from rows and columns"));
  return side * patch;
}

VisionConfig read(nn::ConfigReader& reader, const Defaults& defaults) {
  VisionConfig c;
  c.kind = defaults.kind;
  c.hidden = reader.integer("hidden_size", 768, 1, kMaxWidth);
  c.intermediate = reader.integer("intermediate_size", 3072, 1, kMaxWidth);
  c.layers = reader.integer("num_hidden_layers", 12, 1, kMaxLayers);
  c.heads = reader.integer("num_attention_heads", 12, 1, kMaxHeads);
  c.channels = reader.integer("num_channels", 3, 1, 64);
  c.patch = square(reader, "patch_size", defaults.patch);
  c.image_size = c.kind == TowerKind::Siglip2 ? read_naflex_size(reader, c.patch) : square(reader, "image_size", 224);
  c.eps = reader.number("layer_norm_eps", defaults.eps, 0, 1);
  c.activation = reader.text("hidden_act", defaults.activation);
  c.has_pooling_head = c.kind != TowerKind::Clip && reader.flag("vision_use_head", true);
  if (c.hidden % c.heads)
    reader.problem(concat("hidden_size is ", c.hidden, ", expected a multiple of num_attention_heads (", c.heads, ")"));
  if (c.channels != 3) reader.problem(concat("num_channels is ", c.channels, ", expected 3: pictures are read as red, green and blue"));
  if (c.image_size < c.patch) reader.problem(concat("image_size is ", c.image_size, ", expected patch_size (", c.patch, ") or more"));
  if (!nn::has_activation(c.activation))
    reader.problem(concat("hidden_act is ", nn::ConfigReader::show(Value(c.activation)), ", which is no activation that is served"));
  nn::refuse_dropout(reader, {"attention_dropout"});
  reader.finish(defaults.model_type);
  return c;
}

const Defaults* find_tower(const std::string& type) {
  for (const Defaults& row : kTowers)
    if (type == row.model_type) return &row;
  return nullptr;
}

}  // namespace

VisionConfig read_vision_config(const Value& config) {
  nn::ConfigReader reader(config);
  const std::string type = reader.text("model_type", "clip_vision_model");
  const Defaults* defaults = find_tower(type);
  if (!defaults || defaults->kind == TowerKind::Siglip2)
    fail(ErrorCode::Data, "config.json: vision_config.model_type is '", type,
         "', expected clip_vision_model or siglip_vision_model: other towers are not served");
  return read(reader, *defaults);
}

VisionConfig read_naflex_config(const Value& config) {
  nn::ConfigReader reader(config);
  const std::string type = reader.text("model_type", "siglip2_vision_model");
  const Defaults* defaults = find_tower(type);
  if (!defaults || defaults->kind != TowerKind::Siglip2)
    fail(ErrorCode::Data, "config.json: vision_config.model_type is '", type,
         "', expected siglip2_vision_model: other towers are not served");
  return read(reader, *defaults);
}

}  // namespace tenon::vlm
