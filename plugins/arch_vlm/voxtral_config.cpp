#include "voxtral_config.h"

#include "config_table.h"
#include "limits.h"
#include "tenon/nn/activation.h"

namespace tenon::vlm {

namespace {

// What VoxtralConfig gives a text_config for the keys that it leaves out, whatever its model_type.
Value default_text() {
  Value config = Value::table();
  config.set("model_type", "llama"), config.set("vocab_size", 131072);
  config.set("hidden_size", 3072), config.set("intermediate_size", 8192), config.set("num_hidden_layers", 30);
  config.set("num_key_value_heads", 8), config.set("head_dim", 128);
  config.set("max_position_embeddings", 131072), config.set("rms_norm_eps", 1e-5), config.set("rope_theta", 1e8);
  return config;
}

}  // namespace

VoxtralConfig read_voxtral_config(const Value& config) {
  nn::ConfigReader reader(config);
  VoxtralConfig c;
  const Value audio = config_table(reader, "audio_config");
  const Value text = config_table(reader, "text_config");
  reader.finish("voxtral");
  c.audio = with_context("audio_config", [&] { return read_audio_config(audio); });

  c.text = default_text();
  for (const auto& [key, value] : text.as_table()) c.text.set(key, value);
  c.text_type = c.text.string_or("model_type", "llama");
  // The head is a weight of its own here: transformers ties none in this model, and caps nothing.
  c.text.set("tie_word_embeddings", false), c.text.set("final_logit_softcapping", nullptr);
  // Rotary settings beside the two tables (a recipe's override or patch) are meant for the text model.
  for (const char* key : {"rope_parameters", "rope_scaling", "rope_theta", "max_position_embeddings"})
    if (const Value* value = config.find(key)) c.text.set(key, *value);

  c.audio_token = reader.optional_integer("audio_token_id", 0, kMaxToken);
  c.projector_activation = reader.text("projector_hidden_act", "gelu");
  if (!nn::has_activation(c.projector_activation))
    reader.problem(concat("projector_hidden_act is ", nn::ConfigReader::show(Value(c.projector_activation)),
                          ", which is no activation that is served"));
  if (c.audio.positions * c.audio.hidden % c.audio.intermediate)
    reader.problem(concat("audio_config.intermediate_size is ", c.audio.intermediate, ", expected a divisor of max_source_positions (",
                          c.audio.positions, ") times hidden_size (", c.audio.hidden, "): a window of sound is a whole number of tokens"));
  reader.finish("voxtral");
  return c;
}

}  // namespace tenon::vlm
