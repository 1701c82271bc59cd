#include "recalling_cache.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/max.h>
#include <ATen/ops/ne.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/sum.h>

namespace tenon::llama {

Batch RecallingCache::recall(const Batch& batch) {
  knows_all_ &= batch.media.empty() && !batch.positions.defined();
  if (!knows_all_) return batch;
  const int64_t held = length();
  const at::Tensor segments = batch.segments.defined() ? batch.segments.to(batch.ids.device()) : at::ones_like(batch.ids);
  ids_ = held ? at::cat({ids_.narrow(1, 0, held), batch.ids}, 1) : batch.ids;
  segments_ = held ? at::cat({segments_.narrow(1, 0, held), segments}, 1) : segments;
  const bool was_beyond = is_beyond_;
  is_beyond_ = segments_.ne(0).sum(1).max().item<int64_t>() > original_;
  if (held == 0 || is_beyond_ == was_beyond) return batch;
  kv_.truncate(0);
  return {.ids = ids_, .segments = segments_, .positions = {}, .media = {}};
}

}  // namespace tenon::llama
