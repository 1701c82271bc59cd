#pragma once
// config.json of a voxtral: which encoder, which text model, how positions of the one become tokens of the other.
#include <cstdint>
#include <optional>
#include <string>

#include "audio_config.h"
#include "tenon/value.h"

namespace tenon::vlm {

struct VoxtralConfig {
  AudioConfig audio;
  Value text;  // the text model's config, with the defaults that this model has for it
  std::string text_type;
  std::optional<int64_t> audio_token;
  std::string projector_activation;

  // Hidden states of so many positions, one behind the other, become one token: as wide as the encoder's mlp.
  int64_t tokens_per_window() const { return audio.positions * audio.hidden / audio.intermediate; }
};

// Error(Data) naming everything that is wrong or not served; the text model's own keys are its architecture's to judge.
VoxtralConfig read_voxtral_config(const Value& config);

}  // namespace tenon::vlm
