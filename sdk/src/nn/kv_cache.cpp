#include "tenon/nn/kv_cache.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cummax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/where.h>

#include "tenon/error.h"

namespace tenon::nn {

KvCache::KvCache(const std::vector<Layer>& layers, int64_t batch, int64_t capacity, at::ScalarType dtype)
    : batch_(batch), capacity_(capacity) {
  if (batch < 1 || capacity < 1) fail(ErrorCode::Internal, "a cache for ", batch, " sequences of ", capacity, " tokens was asked for");
  const c10::NoGradGuard no_grad;
  for (const Layer& layer : layers) {
    const auto options = at::TensorOptions().dtype(dtype).device(layer.device);
    keys_.push_back(at::empty({batch, layer.kv_heads, capacity, layer.head_dim}, options));
    values_.push_back(at::empty({batch, layer.kv_heads, capacity, layer.head_dim}, options));
  }
}

void KvCache::truncate(int64_t length) {
  if (length < 0 || length > length_) fail(ErrorCode::Internal, "a cache of ", length_, " tokens cannot be cut to ", length);
  length_ = length;
}

std::pair<at::Tensor, at::Tensor> KvCache::append(int64_t layer, const at::Tensor& k, const at::Tensor& v) {
  const c10::NoGradGuard no_grad;
  const int64_t tokens = k.size(2);
  if (length_ + tokens > capacity_)
    fail(ErrorCode::Internal, "the cache holds ", length_, " of ", capacity_, " tokens, ", tokens, " more do not fit");
  const auto index = static_cast<size_t>(layer);
  keys_.at(index).narrow(2, length_, tokens).copy_(k);
  values_.at(index).narrow(2, length_, tokens).copy_(v);
  return {keys_[index].narrow(2, 0, length_ + tokens), values_[index].narrow(2, 0, length_ + tokens)};
}

at::Tensor KvCache::add_segments(const at::Tensor& added, int64_t tokens, at::Device device) {
  const c10::NoGradGuard no_grad;
  if (!added.defined() && !segments_.defined()) return {};
  if (length_ + tokens > capacity_)
    fail(ErrorCode::Internal, "the cache holds ", length_, " of ", capacity_, " tokens, ", tokens, " more do not fit");
  if (!segments_.defined()) segments_ = at::ones({batch_, capacity_}, at::TensorOptions().dtype(at::kLong).device(device));
  at::Tensor place = segments_.narrow(1, length_, tokens);
  if (added.defined())
    place.copy_(added);
  else
    place.fill_(1);
  return segments_.narrow(1, 0, length_ + tokens);
}

void KvCache::commit(int64_t tokens) { length_ += tokens; }

namespace {
// How many tokens of its own segment stand before each token: those of the cache, then those of the batch, whose segments are runs.
at::Tensor count_within(const at::Tensor& segments, const at::Tensor& held) {
  const int64_t tokens = segments.size(1);
  const at::Tensor index = at::arange(tokens, segments.options());
  at::Tensor start = at::full({segments.size(0), 1}, 0, segments.options());
  if (tokens > 1) {
    const at::Tensor changes = segments.narrow(1, 1, tokens - 1).ne(segments.narrow(1, 0, tokens - 1));
    start = at::cat({start, at::where(changes, index.narrow(0, 1, tokens - 1), 0)}, 1);
    start = std::get<0>(at::cummax(start, 1));
  }
  at::Tensor position = index - start;
  if (held.defined() && held.size(1) > 0) position = position + at::eq(segments.unsqueeze(2), held.unsqueeze(1)).sum(2);
  return position;
}
}  // namespace

void place_tokens(const Batch& batch, KvCache* cache, State& state) {
  const c10::NoGradGuard no_grad;
  const int64_t rows = batch.ids.size(0), tokens = batch.ids.size(1);
  const at::Device device = batch.ids.device();
  if (cache && cache->batch() != rows) fail(ErrorCode::Internal, "a cache for ", cache->batch(), " sequences met a batch of ", rows);
  state.cache = cache;
  state.past = cache ? cache->length() : 0;
  if (cache && state.past + tokens > cache->capacity())
    fail(ErrorCode::Internal, "the cache holds ", state.past, " of ", cache->capacity(), " tokens, ", tokens, " more do not fit");

  at::Tensor segments = batch.segments.defined() ? batch.segments.to(device) : at::Tensor();
  if (segments.defined()) {
    if (segments.dim() != 2 || segments.size(0) != rows || segments.size(1) != tokens || segments.scalar_type() != at::kLong)
      fail(ErrorCode::Internal, "segments of shape [", segments.sizes(), "] do not fit ids of shape [", batch.ids.sizes(), "]");
    if (segments.eq(1).all().item<bool>()) segments = at::Tensor();
  }
  const at::Tensor all = cache ? cache->add_segments(segments, tokens, device) : segments;
  if (all.defined() && !segments.defined()) segments = at::ones({rows, tokens}, at::TensorOptions().dtype(at::kLong).device(device));
  state.segments = segments;
  state.key_segments = all;

  if (batch.positions.defined()) {
    if (batch.positions.dim() != 3 || batch.positions.size(1) != rows || batch.positions.size(2) != tokens)
      fail(ErrorCode::Internal, "positions of shape [", batch.positions.sizes(), "] do not fit ids of shape [", batch.ids.sizes(), "]");
    state.positions = batch.positions.to(device);
  } else if (segments.defined()) {
    state.positions = count_within(segments, state.past > 0 ? all.narrow(1, 0, state.past) : at::Tensor()).unsqueeze(0);
  } else {
    state.positions = at::arange(state.past, state.past + tokens, at::TensorOptions().dtype(at::kLong).device(device))
                          .view({1, 1, tokens})
                          .expand({1, rows, tokens});
  }
}

}  // namespace tenon::nn
