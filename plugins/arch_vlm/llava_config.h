#pragma once
// config.json of a llava or llava_next: which tower, which of its layers, which text model.
#include <cstdint>
#include <string>
#include <vector>

#include "image_steps.h"
#include "tenon/value.h"
#include "vision_config.h"

namespace tenon::vlm {

// What differs between the two families.
struct LlavaFamily {
  const char* model_type;
  const char* summary;
  bool is_tiled;  // llava_next: a picture is cut into tiles
};
inline constexpr LlavaFamily kLlava = {"llava", "LLaVA 1.5: a CLIP or SigLIP tower before a text model.", false};
inline constexpr LlavaFamily kLlavaNext = {"llava_next", "LLaVA-NeXT (1.6): the same with pictures in tiles.", true};

struct LlavaConfig {
  const LlavaFamily* family = nullptr;
  VisionConfig vision;
  Value text;  // the text model's config, with what the outer config decides for it
  std::string text_type;
  int64_t text_hidden = 0;
  int64_t image_token = 0;
  std::vector<int64_t> feature_layers;  // indices into the tower's hidden states: 0 is what goes into its first layer
  bool drops_first = true;              // "default": without the first position, CLIP's class token
  bool projector_bias = true;
  std::string projector_activation;
  std::vector<Size> pinpoints;  // of a tiled family: what a picture may be enlarged to, in whole tiles

  // Of one view.
  int64_t image_tokens() const { return vision.tokens() - (drops_first ? 1 : 0); }
};

// Error(Data) naming everything that is wrong or not served; the text model's own keys are its architecture's to judge.
LlavaConfig read_llava_config(const LlavaFamily& family, const Value& config);

// [[height, width], ...] -> sizes; class default where it is null. `problems` gets a line for what is no such list.
std::vector<Size> read_pinpoints(const Value* value, std::vector<std::string>& problems);

}  // namespace tenon::vlm
