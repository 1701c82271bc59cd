#pragma once
// Attention inside runs of a sequence: pictures of any sizes one behind the other, each seeing itself alone.
#include <ATen/core/Tensor.h>

#include "tenon/nn/attention.h"

namespace tenon::vlm {

// q, k, v: [1, T, heads, head_dim]; lengths: [runs] int64, which add up to T -> [1, T, heads * head_dim].
at::Tensor attend_in_runs(const nn::Attention& attention, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const at::Tensor& lengths);

}  // namespace tenon::vlm
