#include "lfm2_vl_config.h"

#include "config_table.h"
#include "limits.h"
#include "tenon/nn/activation.h"
#include "tenon/nn/config_reader.h"

namespace tenon::vlm {

namespace {

constexpr int64_t kMaxFactor = 64;

}  // namespace

Lfm2VlConfig read_lfm2_vl_config(const Value& config) {
  nn::ConfigReader reader(config);
  Lfm2VlConfig c;
  const Value vision = config_table(reader, "vision_config");
  c.text = config_table(reader, "text_config");
  reader.finish("lfm2_vl");
  c.vision = with_context("vision_config", [&] { return read_naflex_config(vision); });

  c.text_type = c.text.string_or("model_type", "lfm2");
  c.text.set("model_type", c.text_type);
  // tie_embedding is the older name, and wins; the text model's own are not looked at.
  const bool tied = reader.flag("tie_word_embeddings", true);
  c.text.erase("tie_embedding");
  c.text.set("tie_word_embeddings", reader.flag("tie_embedding", tied));
  for (const char* key : {"dtype", "torch_dtype"})
    if (const Value* dtype = config.find_set(key); dtype && !c.text.find_set(key)) c.text.set(key, *dtype);
  // Rotary settings beside the two tables (a recipe's override or patch) are meant for the text model.
  for (const char* key : {"rope_parameters", "rope_scaling", "rope_theta", "max_position_embeddings"})
    if (const Value* value = config.find(key)) c.text.set(key, *value);

  c.image_token = reader.integer("image_token_id", 396, 0, kMaxToken);
  c.factor = reader.integer("downsample_factor", 2, 1, kMaxFactor);
  c.projector_width = reader.integer("projector_hidden_size", 2560, 1, kMaxWidth);
  c.projector_bias = reader.flag("projector_bias", true);
  c.projector_has_norm = reader.flag("projector_use_layernorm", true);
  c.projector_activation = reader.text("projector_hidden_act", "gelu");
  if (!nn::has_activation(c.projector_activation))
    reader.problem(concat("projector_hidden_act is ", nn::ConfigReader::show(Value(c.projector_activation)),
                          ", which is no activation that is served"));
  reader.finish("lfm2_vl");
  return c;
}

}  // namespace tenon::vlm
