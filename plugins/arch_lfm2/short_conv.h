#pragma once
// A causal convolution of a few tokens, each channel by itself.
#include <ATen/core/Tensor.h>

namespace tenon::lfm2 {

// Which of the tokens before each one are of its own segment: segments [B, T], key_segments [B, past + T] -> [B, T, reach] bool, the farthest token
// first. A token before the first is of none.
at::Tensor same_segment(const at::Tensor& segments, const at::Tensor& key_segments, int64_t reach);

// x: [B, reach + T, width], the tokens before the first in front; weight: [width, 1, reach + 1], its last column for the newest token; bias [width] or
// undefined; `sees`: as same_segment makes it, undefined for all. -> [B, T, width] in x's dtype, summed in float32.
at::Tensor short_conv(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& sees);

}  // namespace tenon::lfm2
