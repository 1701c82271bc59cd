#include "audio_tower.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/conv1d.h>
#include <ATen/ops/gelu.h>

namespace tenon::vlm {

namespace {

// transformers keeps hidden states of float16 this far from infinity.
constexpr double kHalfLimit = 65504 - 1000;

EncoderShape layer_shape(const AudioConfig& c) {
  return {.hidden = c.hidden,
          .intermediate = c.intermediate,
          .heads = c.heads,
          .eps = 1e-5,
          .activation = c.activation,
          .key_bias = false,
          .attention_norm = "self_attn_layer_norm",
          .mlp_norm = "final_layer_norm",
          .up = "fc1",
          .down = "fc2"};
}
std::string layer_name(int64_t i) { return concat("layers.", i, "."); }

}  // namespace

void add_audio_tower(Blueprint& blueprint, const AudioConfig& c, const std::string& path, const Prefixes& files,
                     double positions_per_token) {
  PartBuilder part(blueprint, path, files, "layers", c.layers, "audio");
  part.tensor("conv1.weight", {c.hidden, c.mels, 3}, DenseKind::Convolution, 0);
  part.tensor("conv1.bias", {c.hidden}, DenseKind::Other, 0);
  part.tensor("conv2.weight", {c.hidden, c.hidden, 3}, DenseKind::Convolution, 0);
  part.tensor("conv2.bias", {c.hidden}, DenseKind::Other, 0);
  part.tensor("embed_positions.weight", {c.positions, c.hidden}, DenseKind::Position, 0);
  for (int64_t i = 0; i < c.layers; ++i) add_encoder_layer(part, layer_shape(c), layer_name(i), i);
  part.norm("layer_norm", c.hidden, /*bias=*/true, c.layers - 1);
  ActivationCost cost = encoder_activations(layer_shape(c));
  cost.compute *= positions_per_token, cost.float32 *= positions_per_token;
  blueprint.block_activations.push_back(cost);
}

AudioTower::AudioTower(AudioConfig config, Parts& parts, const std::string& path, int stack)
    : config_(std::move(config)), precision_(parts.precision()) {
  const auto dense = [&](const char* name) { return &parts.dense(concat(path, ".", name)); };
  conv_1_ = dense("conv1.weight"), conv_1_bias_ = dense("conv1.bias");
  conv_2_ = dense("conv2.weight"), conv_2_bias_ = dense("conv2.bias");
  positions_ = dense("embed_positions.weight");
  for (int64_t i = 0; i < config_.layers; ++i)
    layers_.emplace_back(layer_shape(config_), parts, path + "." + layer_name(i), parts.device(stack, i));
  last_norm_ = {dense("layer_norm.weight"), dense("layer_norm.bias"), layer_shape(config_).eps};
}

at::Tensor AudioTower::embed(const at::Tensor& features) const {
  const at::ScalarType compute = precision_.compute;
  if (features.dim() != 3 || features.size(1) != config_.mels || features.size(2) != config_.frames())
    fail(ErrorCode::Data, "input_features are ", features.sizes(), ", the audio tower takes [windows, ", config_.mels, ", ",
         config_.frames(), "]");
  const auto convolve = [&](const at::Tensor& x, const Dense& weight, const Dense& bias, int64_t stride) {
    return at::gelu(at::conv1d(x, weight.value.to(compute), bias.value.to(compute), stride, /*padding=*/1));
  };
  const at::Tensor x = features.to(layers_.front().device(), compute);
  const at::Tensor heard = convolve(convolve(x, *conv_1_, *conv_1_bias_, 1), *conv_2_, *conv_2_bias_, 2).transpose(1, 2);
  // Sinusoids, which transformers never trains.
  return (heard + positions_->value.detach().to(compute)).to(precision_.residual);
}

at::Tensor AudioTower::layer(int64_t i, const at::Tensor& hidden) const {
  const at::Tensor out = layers_.at(static_cast<size_t>(i))(hidden, attention_);
  return precision_.residual == at::kHalf ? at::clamp(out, -kHalfLimit, kHalfLimit) : out;
}

at::Tensor AudioTower::finish(const at::Tensor& hidden) const { return last_norm_(hidden, precision_.compute); }

}  // namespace tenon::vlm
