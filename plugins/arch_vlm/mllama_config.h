#pragma once
// config.json of an mllama: which tower, which layers of the text model look at pictures. Absent keys take the defaults of transformers' config classes.
#include <cstdint>
#include <string>
#include <vector>

#include "tenon/value.h"

namespace tenon::vlm {

struct MllamaVisionConfig {
  int64_t hidden = 0, intermediate = 0, layers = 0, global_layers = 0, heads = 0, channels = 0, image_size = 0, patch = 0, out = 0;
  int64_t max_tiles = 0, aspect_ratios = 0;  // how many ratios there are: ids of pictures go from 1 to this
  std::vector<int64_t> feature_layers;       // whose results stand beside the last one's
  std::string activation;
  double eps = 0;

  int64_t side() const { return image_size / patch; }
  // Of one tile: its patches behind a class token.
  int64_t tokens() const { return side() * side() + 1; }
  // What stands behind a tile's tokens up to a multiple of eight, seen by them and part of no result.
  int64_t padding() const { return (8 - tokens() % 8) % 8; }
  // Of one picture, as the text model sees it.
  int64_t picture_tokens() const { return max_tiles * tokens(); }
};

struct MllamaConfig {
  MllamaVisionConfig vision;
  Value text;  // the decoder's config, as a llama
  int64_t text_hidden = 0, heads = 0, kv_heads = 0, vocab = 0;
  double eps = 0;
  std::vector<bool> looks;  // of each layer of the text model: attends to pictures instead of text
  int64_t image_token = 0;

  int64_t head_dim() const { return text_hidden / heads; }
  int64_t layers() const { return static_cast<int64_t>(looks.size()); }
};

// The embedding has so many rows more than the head.
inline constexpr int64_t kExtraRows = 8;

// Error(Data) naming everything that is wrong or not served.
MllamaConfig read_mllama_config(const Value& config);

}  // namespace tenon::vlm
