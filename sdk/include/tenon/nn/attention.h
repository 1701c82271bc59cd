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
