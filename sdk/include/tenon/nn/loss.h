#pragma once
// From hidden states to logits and log-probabilities.
#include <ATen/core/Tensor.h>

#include "tenon/export.h"
#include "tenon/seams.h"

namespace tenon::nn {

// cap * tanh(x / cap); x itself for cap 0.
TENON_API at::Tensor soft_cap(const at::Tensor& x, double cap);

// The default of the loss seam. Logits stay in the head's output dtype; log-softmax is float32, a panel of rows at a time; the backward pass writes
// the gradient over the logits. Targets outside the vocabulary are Error(Data) on the CPU.
TENON_API at::Tensor token_logprobs(const LossArgs& args);

}  // namespace tenon::nn
