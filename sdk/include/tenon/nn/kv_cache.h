#pragma once
// Keys and values kept between calls, and where the tokens of a batch stand.
#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

#include "tenon/blueprint.h"
#include "tenon/export.h"
#include "tenon/model.h"

namespace tenon::nn {

// Preallocated [batch, kv_heads, capacity, head_dim] for each layer, on the layer's device. Tokens of a forward pass are written by append() and
// count from commit() on; truncate() forgets the last ones. Never part of autograd.
class TENON_API KvCache final : public Cache {
 public:
  struct Layer {
    int64_t kv_heads = 0, head_dim = 0;
    at::Device device = at::kCPU;
  };
  KvCache(const std::vector<Layer>& layers, int64_t batch, int64_t capacity, at::ScalarType dtype);

  int64_t length() const override { return length_; }
  int64_t capacity() const override { return capacity_; }
  int64_t batch() const { return batch_; }
  void truncate(int64_t length) override;

  // k, v: [B, kv_heads, T, head_dim] of the new tokens -> all keys and values, [B, kv_heads, length + T, head_dim] (views).
  std::pair<at::Tensor, at::Tensor> append(int64_t layer, const at::Tensor& k, const at::Tensor& v);

  // Segments of the tokens held and of those to come, [B, length + T]; undefined while all are 1. `added` is undefined or [B, T].
  at::Tensor add_segments(const at::Tensor& added, int64_t tokens, at::Device device);
  void commit(int64_t tokens);

 private:
  int64_t batch_, capacity_, length_ = 0;
  std::vector<at::Tensor> keys_, values_;
  at::Tensor segments_;  // [B, capacity] once a token was not in segment 1
};

// Fills positions, segments, key_segments, past and cache of the state. `cache` may be null. Error(Internal) when the cache has no room or another batch.
TENON_API void place_tokens(const Batch& batch, KvCache* cache, State& state);

}  // namespace tenon::nn
