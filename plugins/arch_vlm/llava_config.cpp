#include "llava_config.h"

#include "config_table.h"
#include "limits.h"
#include "tenon/nn/activation.h"

namespace tenon::vlm {

namespace {

// What LlavaConfig takes for a tower that the file does not describe at all.
Value default_tower() {
  Value config = Value::table();
  config.set("model_type", "clip_vision_model");
  config.set("intermediate_size", 4096), config.set("hidden_size", 1024), config.set("patch_size", 14), config.set("image_size", 336);
  config.set("num_hidden_layers", 24), config.set("num_attention_heads", 16);
  return config;
}

void read_layers(nn::ConfigReader& reader, LlavaConfig& c) {
  const Value* value = reader.config().find("vision_feature_layer");
  const Value::List one{value ? *value : Value(-2)};
  for (const Value& item : value && value->is_list() ? value->as_list() : one) {
    const int64_t states = c.vision.layers + 1;
    if (!item.is_int() || item.as_int() < -states || item.as_int() >= states)
      return reader.problem(concat("vision_feature_layer is ", nn::ConfigReader::show(value ? *value : Value(-2)),
                                   ", expected numbers from ", -states, " to ", states - 1, ": the tower has ", c.vision.layers,
                                   " layers"));
    c.feature_layers.push_back(item.as_int() < 0 ? item.as_int() + states : item.as_int());
  }
  if (c.feature_layers.empty()) reader.problem(concat("vision_feature_layer is [], expected at least one layer"));
}

// Tiles fill a size, and the patches of a view lie in rows and columns, without a class token among them.
void read_tiles(nn::ConfigReader& reader, LlavaConfig& c) {
  std::vector<std::string> problems;
  c.pinpoints = read_pinpoints(reader.config().find_set("image_grid_pinpoints"), problems);
  for (const std::string& problem : problems) reader.problem(problem);
  for (const Size& size : c.pinpoints)
    if (size.height % c.vision.image_size || size.width % c.vision.image_size)
      reader.problem(concat("image_grid_pinpoints holds [", size.height, ", ", size.width,
                            "], expected multiples of vision_config.image_size (", c.vision.image_size, ")"));
  if (c.image_tokens() != c.vision.patches())
    reader.problem(concat("vision_feature_select_strategy is '", c.drops_first ? "default" : "full", "', expected '",
                          c.drops_first ? "full" : "default", "': of this tower's ", c.vision.tokens(), " positions ", c.vision.patches(),
                          " are patches, and tiles are put together from patches alone"));
}

}  // namespace

std::vector<Size> read_pinpoints(const Value* value, std::vector<std::string>& problems) {
  constexpr int64_t kMaxEdge = 1 << 15;
  if (!value || value->is_null()) return {{336, 672}, {672, 336}, {672, 672}, {1008, 336}, {336, 1008}};
  std::vector<Size> sizes;
  const auto is_edge = [](const Value& edge) { return edge.is_int() && edge.as_int() >= 1 && edge.as_int() <= kMaxEdge; };
  if (value->is_list())
    for (const Value& item : value->as_list())
      if (item.is_list() && item.as_list().size() == 2 && is_edge(item.as_list()[0]) && is_edge(item.as_list()[1]))
        sizes.push_back({item.as_list()[0].as_int(), item.as_list()[1].as_int()});
  if (!value->is_list() || sizes.empty() || sizes.size() != value->as_list().size())
    problems.push_back(
        concat("image_grid_pinpoints is ", nn::ConfigReader::show(*value), ", expected a list of [height, width], 1 to ", kMaxEdge));
  return sizes;
}

LlavaConfig read_llava_config(const LlavaFamily& family, const Value& config) {
  nn::ConfigReader reader(config);
  LlavaConfig c;
  c.family = &family;
  const Value vision = config_table(reader, "vision_config", default_tower());
  c.text = config_table(reader, "text_config");
  reader.finish(family.model_type);
  c.vision = with_context("vision_config", [&] { return read_vision_config(vision); });

  c.text_type = c.text.string_or("model_type", "llama");
  c.text.set("model_type", c.text_type);
  // llava asks the text model too, llava_next does not.
  if (const bool tied = reader.flag("tie_word_embeddings", false); tied || family.is_tiled) c.text.set("tie_word_embeddings", tied);
  // The head is this class's own, and caps nothing.
  c.text.set("final_logit_softcapping", nullptr);
  // Rotary settings beside the two tables (a recipe's override or patch) are meant for the text model.
  for (const char* key : {"rope_parameters", "rope_scaling", "rope_theta", "max_position_embeddings"})
    if (const Value* value = config.find(key)) c.text.set(key, *value);

  c.image_token = reader.integer(
      config.find("image_token_index") || !config.find("image_token_id") ? "image_token_index" : "image_token_id", 32000, 0, kMaxToken);
  const std::string strategy = reader.text("vision_feature_select_strategy", "default");
  if (strategy != "default" && strategy != "full")
    reader.problem(concat("vision_feature_select_strategy is '", strategy, "', expected default or full"));
  c.drops_first = strategy == "default";
  read_layers(reader, c);
  c.projector_bias = reader.flag("multimodal_projector_bias", true);
  c.projector_activation = reader.text("projector_hidden_act", "gelu");
  if (!nn::has_activation(c.projector_activation))
    reader.problem(concat("projector_hidden_act is ", nn::ConfigReader::show(Value(c.projector_activation)),
                          ", which is no activation that is served"));
  if (family.is_tiled) read_tiles(reader, c);
  if (c.image_tokens() < 1) reader.problem(concat("vision_feature_select_strategy leaves nothing of a tower with one position"));
  reader.finish(family.model_type);
  return c;
}

}  // namespace tenon::vlm
