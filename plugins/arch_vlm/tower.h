#pragma once
// A vision transformer, CLIP's, SigLIP's or SigLIP2's: patches of a picture -> hidden states of all layers.
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

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
  struct Norm {
    Dense *weight = nullptr, *bias = nullptr;
  };
  struct Layer {
    Norm before_attention, before_mlp;
    Slot *q = nullptr, *k = nullptr, *v = nullptr, *out = nullptr, *fc1 = nullptr, *fc2 = nullptr;
    at::Device device = at::kCPU;
  };
  at::Tensor norm(const at::Tensor& x, const Norm& norm, at::ScalarType out) const;
  at::Tensor attention(const Layer& layer, const at::Tensor& x, const at::Tensor& lengths) const;
  at::Tensor positions(const Size& grid) const;

  VisionConfig config_;
  Precision precision_;
  Dense *patches_ = nullptr, *patch_bias_ = nullptr, *class_token_ = nullptr, *positions_;
  Slot* patch_layer_ = nullptr;  // SigLIP2's, in place of a convolution
  Norm first_norm_;              // CLIP's
  Norm last_norm_;
  std::vector<Layer> layers_;
  nn::Attention attention_;
};

}  // namespace tenon::vlm
