#pragma once
// The default of the attention seam: LibTorch's scaled_dot_product_attention, without a mask wherever none is needed and without repeating keys
// and values for grouped queries. Score soft caps run unfused.
#include <ATen/core/Tensor.h>

#include <memory>

#include "tenon/export.h"
#include "tenon/seams.h"

namespace tenon::nn {

// True where query t may look at key s: [B or 1, 1, T, S] bool. A padded query sees the padding before it and itself, so that no row is empty
// and nothing becomes NaN.
TENON_API at::Tensor attention_mask(const AttentionArgs& args);

// softmax(q k^T * scale + bias) v, differentiable. q: [B, H, T, D], k, v: [B, H or fewer, S, D], bias: [T, S] or [B or 1, 1 or H, T, S] without a
// gradient, or undefined; causal: query t sees keys 0 ... t. Half precision on a CPU without instructions for it is computed in float32.
TENON_API at::Tensor fused_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& bias, bool causal,
                                     double scale, double dropout = 0);

// Holds the masks of the batch at work, shared by all layers. Copies share them. Thread-safe.
class TENON_API Attention {
 public:
  Attention();
  at::Tensor operator()(const AttentionArgs& args) const;

 private:
  struct Masks;
  std::shared_ptr<Masks> masks_;
};

}  // namespace tenon::nn
