#include "join.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/index_copy.h>
#include <ATen/ops/nonzero.h>

namespace tenon::vlm {

at::Tensor find_places(const at::Tensor& ids, const at::Tensor& segments, int64_t token) {
  at::Tensor is_place = ids.eq(token);
  if (segments.defined()) is_place = is_place & segments.to(ids.device()).ne(0);
  return at::nonzero(is_place.reshape({-1})).squeeze(1);
}

at::Tensor put_features(const at::Tensor& text, const at::Tensor& places, const at::Tensor& features) {
  const int64_t width = text.size(2);
  return text.reshape({-1, width})
      .index_copy(0, places.to(text.device()), features.reshape({-1, width}).to(text.device(), text.scalar_type()))
      .view_as(text);
}

}  // namespace tenon::vlm
