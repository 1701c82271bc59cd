#pragma once
// A vision transformer, CLIP's, SigLIP's or SigLIP2's: patches of a picture -> hidden states of all layers.
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "encoder_layer.h"
#include "image_steps.h"
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
  // Of SigLIP2. patches: [1, T, channels * patch * patch], pictures one behind the other, as many rows and columns as `grids` says -> [1, T, hidden].
  at::Tensor embed(const at::Tensor& patches, const std::vector<Size>& grids) const;
  // lengths: [pictures] int64, where they lie one behind the other; undefined where each has a row of its own.
  at::Tensor layer(int64_t i, const at::Tensor& hidden, const at::Tensor& lengths = {}) const;
  // The norm behind the last layer, in the compute dtype.
  at::Tensor finish(const at::Tensor& hidden) const;
  const VisionConfig& config() const { return config_; }

 private:
  at::Tensor positions(const Size& grid) const;

  VisionConfig config_;
  Precision precision_;
  Dense *patches_ = nullptr, *patch_bias_ = nullptr, *class_token_ = nullptr, *positions_;
  Slot* patch_layer_ = nullptr;  // SigLIP2's, in place of a convolution
  LayerNorm first_norm_;         // CLIP's
  LayerNorm last_norm_;
  std::vector<EncoderLayer> layers_;
  nn::Attention attention_;
};

}  // namespace tenon::vlm
