#pragma once
// The config of a vision tower, read into numbers. Absent keys take the defaults of transformers' config classes.
#include <cstdint>
#include <string>

#include "tenon/value.h"

namespace tenon::vlm {

enum class TowerKind { Clip, Siglip };

struct VisionConfig {
  TowerKind kind = TowerKind::Clip;
  int64_t hidden = 0, intermediate = 0, layers = 0, heads = 0, channels = 0, image_size = 0, patch = 0;
  std::string activation;
  double eps = 0;
  bool has_pooling_head = false;  // SigLIP's, which no feature comes from

  int64_t side() const { return image_size / patch; }
  int64_t patches() const { return side() * side(); }
  // Positions of a hidden state: CLIP puts a class token in front.
  int64_t tokens() const { return patches() + (kind == TowerKind::Clip ? 1 : 0); }
};

// `config` is the table "vision_config". Error(Data) naming everything that is wrong or not served.
VisionConfig read_vision_config(const Value& config);

}  // namespace tenon::vlm
