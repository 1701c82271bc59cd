#include "audio_config.h"

#include "limits.h"
#include "tenon/nn/activation.h"
#include "tenon/nn/config_reader.h"

namespace tenon::vlm {

namespace {
constexpr int64_t kMaxMels = 1 << 12, kMaxPositions = 1 << 20;
constexpr const char* kType = "voxtral_encoder";
}  // namespace

AudioConfig read_audio_config(const Value& config) {
  nn::ConfigReader reader(config);
  const std::string type = reader.text("model_type", kType);
  if (type != kType)
    fail(ErrorCode::Data, "config.json: audio_config.model_type is '", type, "', expected ", kType, ": other encoders are not served");
  // Whisper's own names are aliases.
  const auto integer = [&](const char* key, const char* alias, int64_t fallback, int64_t max) {
    return reader.integer(config.find(alias) ? alias : key, fallback, 1, max);
  };
  AudioConfig c;
  c.hidden = integer("hidden_size", "d_model", 1280, kMaxWidth);
  c.intermediate = integer("intermediate_size", "encoder_ffn_dim", 5120, kMaxWidth);
  c.layers = integer("num_hidden_layers", "encoder_layers", 32, kMaxLayers);
  c.heads = integer("num_attention_heads", "encoder_attention_heads", 20, kMaxHeads);
  c.mels = reader.integer("num_mel_bins", 128, 1, kMaxMels);
  c.positions = reader.integer("max_source_positions", 1500, 1, kMaxPositions);
  c.activation = reader.text("activation_function", "gelu");
  if (c.hidden % c.heads)
    reader.problem(concat("hidden_size is ", c.hidden, ", expected a multiple of num_attention_heads (", c.heads, ")"));
  if (!nn::has_activation(c.activation))
    reader.problem(
        concat("activation_function is ", nn::ConfigReader::show(Value(c.activation)), ", which is no activation that is served"));
  nn::refuse_dropout(reader, {"dropout", "attention_dropout", "activation_dropout"});
  reader.finish(type);
  return c;
}

}  // namespace tenon::vlm
