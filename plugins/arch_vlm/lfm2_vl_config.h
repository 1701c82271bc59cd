#pragma once
// config.json of an lfm2_vl: a SigLIP2 tower, squares of its features as tokens, and a text model.
#include <cstdint>
#include <string>

#include "tenon/value.h"
#include "vision_config.h"

namespace tenon::vlm {

struct Lfm2VlConfig {
  VisionConfig vision;
  Value text;  // the text model's config, with what the outer config decides for it
  std::string text_type;
  int64_t image_token = 0;
  int64_t factor = 0;  // so many patches a side become one token
  int64_t projector_width = 0;
  bool projector_bias = true, projector_has_norm = true;
  std::string projector_activation;

  int64_t square_width() const { return vision.hidden * factor * factor; }
};

// Error(Data) naming everything that is wrong or not served; the text model's own keys are its architecture's to judge.
Lfm2VlConfig read_lfm2_vl_config(const Value& config);

}  // namespace tenon::vlm
