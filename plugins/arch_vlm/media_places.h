#pragma once
// Where media stand among the tokens of a batch, and how their features get there.
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace tenon::vlm {

// Places of `token` in the flattened [B * T], padding aside: int64, in order, on the device of `ids`.
at::Tensor media_places(const at::Tensor& ids, const at::Tensor& segments, int64_t token);

// `text` [B, T, hidden] with features, [places, hidden] in any shape, device and dtype, at these places.
at::Tensor put_features(const at::Tensor& text, const at::Tensor& places, const at::Tensor& features);

}  // namespace tenon::vlm
