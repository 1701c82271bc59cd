#pragma once
// Attention of one new token over a cache on the CPU: keys and values are read once, in place.
#include <ATen/core/Tensor.h>

namespace tenon::nn {

// q: [B, heads, 1, D]; k, v: [B, kv_heads, S, D]; bias: undefined or [B or 1, 1, 1, S] in q's dtype, added to the scores -> [B, heads, 1, D].
// Undefined when this shape, dtype, device or mode of autograd is not its business.
at::Tensor decode_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& bias, double scale);

}  // namespace tenon::nn
