#pragma once
// phi3 over a cache: once a text grows beyond longrope's original context all its positions turn otherwise, so that it is computed anew, as in transformers.
#include <vector>

#include "tenon/model.h"
#include "tenon/nn/kv_cache.h"

namespace tenon::llama {

class RecallingCache final : public Cache {
 public:
  RecallingCache(const std::vector<nn::KvCache::Layer>& layers, int64_t batch, int64_t capacity, at::ScalarType dtype, int64_t original)
      : kv_(layers, batch, capacity, dtype), original_(original) {}

  int64_t length() const override { return kv_.length(); }
  int64_t capacity() const override { return kv_.capacity(); }
  void truncate(int64_t length) override { kv_.truncate(length); }
  nn::KvCache& kv() { return kv_; }

  // What goes through the model so that `batch` is continued: itself, or with it everything before, which the cache then no longer holds.
  // A text with media, or with positions from outside, is never recalled: this cache does not know them.
  Batch recall(const Batch& batch);

 private:
  nn::KvCache kv_;
  int64_t original_;
  at::Tensor ids_, segments_;  // [B, tokens], of the text so far
  bool knows_all_ = true, is_beyond_ = false;
};

}  // namespace tenon::llama
