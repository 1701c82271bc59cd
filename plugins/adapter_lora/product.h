#pragma once
// The low-rank product as one autograd node: keeps x itself (shared with everything that reads it) and two small tensors.
#include <ATen/core/Tensor.h>

namespace tenon::lora {

// scaling * dropout(x) a^T b^T in x's dtype. x: [..., in]; a: [r, in] and b: [out, r] in float32 (the gradients' dtype) and a_cast, b_cast the same
// in x's dtype. dropout > 0 draws a mask (tenon/nn/dropout.h), with or without gradients alike, so that a block run again from the same generator
// state drops the same elements.
at::Tensor low_rank_product(const at::Tensor& x, const at::Tensor& a, const at::Tensor& b, const at::Tensor& a_cast,
                            const at::Tensor& b_cast, double scaling, double dropout);

// x with a share of `dropout` of its elements zeroed and the others scaled up; differentiable.
at::Tensor drop(const at::Tensor& x, double dropout);

}  // namespace tenon::lora
