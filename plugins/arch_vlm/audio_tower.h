#pragma once
// A Whisper encoder: windows of log-mel features -> hidden states.
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "audio_config.h"
#include "encoder_layer.h"

namespace tenon::vlm {

// Adds the encoder's slots and tensors under `path` as a new stack of the blueprint, part "audio". What lies before the layers belongs to the first of
// them, what lies behind to the last. `positions_per_token`: how many positions one token of text stands for, for the plan.
void add_audio_tower(Blueprint& blueprint, const AudioConfig& config, const std::string& path, const Prefixes& files,
                     double positions_per_token);

class AudioTower {
 public:
  // `parts` outlives the tower. `stack`: of its layers in the blueprint.
  AudioTower(AudioConfig config, Parts& parts, const std::string& path, int stack);

  // features: [windows, mels, frames] -> [windows, positions, hidden], what goes into the first layer.
  at::Tensor embed(const at::Tensor& features) const;
  at::Tensor layer(int64_t i, const at::Tensor& hidden) const;
  // Behind the last layer: the norm, in the compute dtype.
  at::Tensor finish(const at::Tensor& hidden) const;
  const AudioConfig& config() const { return config_; }

 private:
  AudioConfig config_;
  Precision precision_;
  Dense *conv_1_, *conv_1_bias_, *conv_2_, *conv_2_bias_, *positions_;
  std::vector<EncoderLayer> layers_;
  LayerNorm last_norm_;
  nn::Attention attention_;
};

}  // namespace tenon::vlm
