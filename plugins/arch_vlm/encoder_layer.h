#pragma once
// One layer of an encoder whose positions all see each other, with norms in front: CLIP's, SigLIP's, SigLIP2's, Whisper's.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "part_builder.h"
#include "tenon/architecture.h"
#include "tenon/nn/attention.h"

namespace tenon::vlm {

struct EncoderShape {
  int64_t hidden = 0, intermediate = 0, heads = 0;
  double eps = 1e-5;
  std::string activation;
  bool key_bias = true;
  // What the family calls its modules.
  const char *attention_norm = "layer_norm1", *mlp_norm = "layer_norm2", *up = "mlp.fc1", *down = "mlp.fc2";
};

// Adds layer i under `name` ("encoder.layers.0.") to a part's stack.
void add_encoder_layer(PartBuilder& part, const EncoderShape& shape, const std::string& name, int64_t i);
// What a layer keeps for its backward pass, per position.
ActivationCost encoder_activations(const EncoderShape& shape);

struct LayerNorm {
  Dense *weight = nullptr, *bias = nullptr;
  double eps = 1e-5;
  // In float32.
  at::Tensor operator()(const at::Tensor& x, at::ScalarType out) const;
};

class EncoderLayer {
 public:
  // `parts` outlives the layer; `path` ends in the layer's name and a point.
  EncoderLayer(const EncoderShape& shape, Parts& parts, const std::string& path, at::Device device);

  // [N, positions, hidden] in the residual dtype, on any device. lengths: [runs] int64, where runs that do not see each other lie one behind the
  // other in the one row; undefined where each has a row of its own.
  at::Tensor operator()(const at::Tensor& hidden, const nn::Attention& attention, const at::Tensor& lengths = {}) const;
  at::Device device() const { return device_; }

 private:
  at::Tensor mix(const at::Tensor& x, const nn::Attention& attention, const at::Tensor& lengths) const;

  int64_t hidden_, heads_;
  std::string activation_;
  Precision precision_;
  LayerNorm attention_norm_, mlp_norm_;
  Slot *q_, *k_, *v_, *out_, *up_, *down_;
  at::Device device_;
};

}  // namespace tenon::vlm
