#pragma once
// config.json of a llava: which tower, which of its layers, which text model.
#include <cstdint>
#include <string>
#include <vector>

#include "tenon/value.h"
#include "vision_config.h"

namespace tenon::vlm {

struct LlavaConfig {
  VisionConfig vision;
  Value text;  // the text model's config, with what the outer config decides for it
  std::string text_type;
  int64_t text_hidden = 0;
  int64_t image_token = 0;
  std::vector<int64_t> feature_layers;  // indices into the tower's hidden states: 0 is what goes into its first layer
  bool drops_first = true;              // "default": without the first position, CLIP's class token
  bool projector_bias = true;
  std::string projector_activation;

  int64_t image_tokens() const { return vision.tokens() - (drops_first ? 1 : 0); }
};

// Error(Data) naming everything that is wrong or not served; the text model's own keys are its architecture's to judge.
LlavaConfig read_llava_config(const Value& config);

}  // namespace tenon::vlm
