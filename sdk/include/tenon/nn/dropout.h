#pragma once
// Dropout (arXiv:1207.0580) whose mask need not be kept. On the CPU a mask is one number drawn from the default generator: what becomes of element i
// is a hash of both, so that all threads can apply it at once and the backward pass can apply it again. Elsewhere it is a tensor.
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "tenon/export.h"

namespace tenon::nn {

struct DropoutMask {
  double share = 0;   // of the elements, that is dropped: [0, 1)
  int64_t seed = 0;   // CPU
  at::Tensor kept{};  // bool, in the shape of what it was drawn for; other devices
};

// From the default generator of x's device. A share of 0 draws nothing.
TENON_API DropoutMask draw_dropout(const at::Tensor& x, double share);

// x, as large as what the mask was drawn for, with the dropped elements zero and the others times 1 / (1 - share): a new tensor, or x itself where
// nothing is dropped. Elements count in their logical order. Without autograd.
TENON_API at::Tensor apply_dropout(const at::Tensor& x, const DropoutMask& mask);

}  // namespace tenon::nn
