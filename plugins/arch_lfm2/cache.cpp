#include "cache.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "tenon/error.h"

namespace tenon::lfm2 {

ConvCache::ConvCache(const std::vector<nn::KvCache::Layer>& attentions, const std::vector<at::Device>& convs, int64_t width, int64_t reach,
                     int64_t batch, int64_t capacity, at::ScalarType dtype)
    : kv_(attentions, batch, capacity, dtype), reach_(reach), newest_(convs.size()) {
  const c10::NoGradGuard no_grad;
  const int64_t held = std::min(capacity, kStepsBack + reach);
  for (const at::Device device : convs) rings_.push_back(at::empty({batch, held, width}, at::TensorOptions().dtype(dtype).device(device)));
}

void ConvCache::truncate(int64_t length) {
  const int64_t first = std::max<int64_t>(0, length - reach_);  // that the next token will look at
  if (!rings_.empty() && length > 0 && length < kv_.length() && first < oldest_)
    fail(ErrorCode::Internal, "a cache of ", kv_.length(), " tokens cannot be cut to ", length, ": convolutions remember the last ", held(),
         ", cut to ", oldest_ + reach_, " or more, or to 0");
  kv_.truncate(length);
  if (length == 0) oldest_ = 0;
}

at::Tensor ConvCache::extend(int64_t conv, const at::Tensor& x) {
  const c10::NoGradGuard no_grad;
  const auto index = static_cast<size_t>(conv);
  const at::Tensor& ring = rings_.at(index);
  const int64_t tokens = x.size(1), kept = std::min(tokens, held()), end = kv_.length(), begin = std::max<int64_t>(0, end - reach_);
  std::vector<at::Tensor> parts;
  if (end - begin < reach_) parts.push_back(at::zeros({x.size(0), reach_ - (end - begin), x.size(2)}, x.options()));
  for (int64_t t = begin; t < end;) {
    const int64_t place = t % held(), run = std::min(end - t, held() - place);
    parts.push_back(ring.narrow(1, place, run));
    t += run;
  }
  parts.push_back(x);
  // A view would hold all of a long prompt until the commit.
  newest_[index] = kept < tokens ? x.narrow(1, tokens - kept, kept).clone() : x;
  return at::cat(parts, 1);
}

void ConvCache::commit(int64_t tokens) {
  const c10::NoGradGuard no_grad;
  const int64_t end = kv_.length() + tokens;
  for (size_t i = 0; i < rings_.size(); ++i) {
    at::Tensor& newest = newest_[i];
    if (!newest.defined()) fail(ErrorCode::Internal, "a pass over a cache left out a convolution");
    int64_t t = end - newest.size(1);
    for (int64_t from = 0; from < newest.size(1);) {
      const int64_t place = t % held(), run = std::min(newest.size(1) - from, held() - place);
      rings_[i].narrow(1, place, run).copy_(newest.narrow(1, from, run));
      from += run, t += run;
    }
    newest.reset();
  }
  oldest_ = std::max(oldest_, end - held());
  kv_.commit(tokens);
}

}  // namespace tenon::lfm2
