#pragma once
// Features take the places of their tokens.
#include <ATen/core/Tensor.h>

namespace tenon::vlm {

// Of the tokens `token` in ids [B, T], padding aside, in the flattened [B * T]: [places] int64.
at::Tensor find_places(const at::Tensor& ids, const at::Tensor& segments, int64_t token);

// text: [B, T, width]; features: [..., width] in the order of `places`.
at::Tensor put_features(const at::Tensor& text, const at::Tensor& places, const at::Tensor& features);

}  // namespace tenon::vlm
