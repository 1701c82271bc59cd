#pragma once
// config.json of a qwen2_vl or qwen2_5_vl, flat or nested: the tower, the text model, and how positions of three axes meet.
#include <cstdint>
#include <string>
#include <vector>

#include "tenon/value.h"

namespace tenon::vlm {

// What differs between the two families.
struct QwenFamily {
  const char* model_type;
  const char* summary;
  bool is_windowed;  // qwen2_5_vl: windows in most layers, RMS norms, a gated mlp, times of video frames
};
inline constexpr QwenFamily kQwen2Vl = {"qwen2_vl", "Qwen2-VL: pictures of any size, positions of three axes.", false};
inline constexpr QwenFamily kQwen25Vl = {"qwen2_5_vl", "Qwen2.5-VL: the same with windows in the tower.", true};

struct QwenVisionConfig {
  bool is_windowed = false;
  int64_t hidden = 0, intermediate = 0, layers = 0, heads = 0, channels = 0, out = 0;
  int64_t patch = 0, temporal_patch = 0;  // pixels, frames
  int64_t merge = 0;                      // so many patches a side become one token
  int64_t window = 0;                     // tokens a side
  std::vector<bool> sees_all;             // by layer; false: its window alone
  double tokens_per_second = 1, rope_theta = 10000;
  std::string activation;

  int64_t patch_width() const { return channels * temporal_patch * patch * patch; }
  int64_t head_dim() const { return hidden / heads; }
};

struct QwenVlConfig {
  const QwenFamily* family = nullptr;
  QwenVisionConfig vision;
  Value text;                     // for the qwen2 that reads it: every key that its own class defaults would answer otherwise is set
  std::vector<int64_t> sections;  // pairs of a head that turn with axis 0, 1, 2, 0, ...
  int64_t image_token = 0, video_token = 0;
};

// Error(Data) naming everything that is wrong or not served; the text model's own keys are its architecture's to judge.
QwenVlConfig read_qwen_config(const QwenFamily& family, const Value& config);

}  // namespace tenon::vlm
