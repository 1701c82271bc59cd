#pragma once
// AdamW over the trainable leaves, and gradient clipping.
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "recipe/recipe.h"
#include "tenon/adapter.h"

namespace tenon::host {

// Whether weight decay applies to a parameter: transformers' rule, not to biases and norm weights.
bool is_decayed(const std::string& name);

// L2 norm of all gradients together, as torch's clip_grad_norm_ computes it: norm of the tensors' norms, in float32.
double gradient_norm(const std::vector<AdapterParameter>& parameters);
// Scales all gradients by min(1, max_norm / (norm + 1e-6)).
void clip_gradients(const std::vector<AdapterParameter>& parameters, double norm, double max_norm);
void scale_gradients(const std::vector<AdapterParameter>& parameters, double factor);
void clear_gradients(const std::vector<AdapterParameter>& parameters);

// Decoupled weight decay (arXiv:1711.05101), LibTorch's fused kernel. Moments in the parameters' dtype.
class AdamW {
 public:
  AdamW(std::vector<AdapterParameter> parameters, const TrainSection& train);
  // Parameters without a gradient are left alone.
  void step(double learning_rate);
  const std::vector<AdapterParameter>& parameters() const { return parameters_; }
  // The parameters themselves and their moments, under names of their own; sharing memory with what is trained.
  std::vector<NamedTensor> tensors() const;

 private:
  struct Slot {
    at::Tensor first, second, step;
    bool decays = false;
  };
  std::vector<AdapterParameter> parameters_;
  std::vector<Slot> state_;
  double beta1_, beta2_, epsilon_, weight_decay_;
};

}  // namespace tenon::host
