#pragma once
// A vision transformer, CLIP's or SigLIP's: patches of a picture -> hidden states of all layers.
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "encoder_layer.h"
#include "part_builder.h"
#include "tenon/architecture.h"
#include "tenon/nn/attention.h"
#include "vision_config.h"

namespace tenon::vlm {

// Adds the tower's slots and tensors under `path` as a new stack of the blueprint, part "vision". What lies before the layers belongs to the first of
// them, what lies behind to the last.
void add_tower(Blueprint& blueprint, const VisionConfig& config, const std::string& path, const Prefixes& files);

class Tower {
 public:
  // `parts` outlives the tower. `stack`: of its layers in the blueprint.
  Tower(VisionConfig config, Parts& parts, const std::string& path, int stack);

  // pixels: [N, channels, image_size, image_size] -> [N, tokens, hidden], what goes into the first layer.
  at::Tensor embed(const at::Tensor& pixels) const;
  at::Tensor layer(int64_t i, const at::Tensor& hidden) const;
  const VisionConfig& config() const { return config_; }

 private:
  VisionConfig config_;
  Precision precision_;
  Dense *patches_, *patch_bias_ = nullptr, *class_token_ = nullptr, *positions_;
  LayerNorm first_norm_;  // CLIP's
  std::vector<EncoderLayer> layers_;
  nn::Attention attention_;
};

}  // namespace tenon::vlm
