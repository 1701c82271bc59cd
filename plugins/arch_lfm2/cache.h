#pragma once
// What an lfm2 keeps between calls: keys and values of the layers that attend, and the last inputs of each convolution.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "tenon/model.h"
#include "tenon/nn/kv_cache.h"

namespace tenon::lfm2 {

// Preallocated. A convolution needs the `reach` tokens before the newest alone, so it does not keep all: truncate() goes back kStepsBack tokens from the
// longest the cache has been, or to 0, and refuses the rest. Never part of autograd.
class ConvCache final : public Cache {
 public:
  static constexpr int64_t kStepsBack = 64;

  // `convs`: the devices of the layers that convolve; width: of their inputs.
  ConvCache(const std::vector<nn::KvCache::Layer>& attentions, const std::vector<at::Device>& convs, int64_t width, int64_t reach,
            int64_t batch, int64_t capacity, at::ScalarType dtype);

  int64_t length() const override { return kv_.length(); }
  int64_t capacity() const override { return kv_.capacity(); }
  void truncate(int64_t length) override;
  nn::KvCache& kv() { return kv_; }

  // x: [B, T, width], new inputs of a convolution -> [B, reach + T, width] with those before them, zeros before the first. They count from commit() on.
  at::Tensor extend(int64_t conv, const at::Tensor& x);
  void commit(int64_t tokens);

 private:
  int64_t held() const { return rings_.empty() ? kv_.capacity() : rings_.front().size(1); }

  nn::KvCache kv_;
  int64_t reach_;
  int64_t oldest_ = 0;              // the first token that the rings still hold
  std::vector<at::Tensor> rings_;   // [B, held, width]: token t stands at t % held
  std::vector<at::Tensor> newest_;  // the last inputs of the pass at work
};

}  // namespace tenon::lfm2
