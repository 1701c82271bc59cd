#pragma once
// The config of a vision tower, read into numbers. Absent keys take the defaults of transformers' config classes.
#include <cstdint>
#include <string>

#include "tenon/value.h"

namespace tenon::vlm {

// Siglip2: NaFlex, pictures of any shape as patches.
enum class TowerKind { Clip, Siglip, Siglip2 };

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

// `config` is the table "vision_config", of a tower with one size of pictures: CLIP's, SigLIP's. Error(Data) naming everything that is wrong or not
// served.
VisionConfig read_vision_config(const Value& config);

// The same of a SigLIP2 tower (NaFlex). image_size is that of the square whose patches have positions of their own; those of other shapes are resized.
VisionConfig read_naflex_config(const Value& config);

}  // namespace tenon::vlm
