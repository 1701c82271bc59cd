#pragma once
// The config of a Whisper encoder, read into numbers. Absent keys take the defaults of transformers' config class.
#include <cstdint>
#include <string>

#include "tenon/value.h"

namespace tenon::vlm {

struct AudioConfig {
  int64_t hidden = 0, intermediate = 0, layers = 0, heads = 0, mels = 0;
  int64_t positions = 0;  // of a window of sound
  std::string activation;

  // Two frames of features become one position.
  int64_t frames() const { return 2 * positions; }
};

// `config` is the table "audio_config". Error(Data) naming everything that is wrong or not served.
AudioConfig read_audio_config(const Value& config);

}  // namespace tenon::vlm
