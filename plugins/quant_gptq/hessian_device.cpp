// Second moments on a GPU: the sum stays there, and so do damping, order and factor, which are ATen's; the finished factor comes to the host.
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "hessian.h"

namespace tenon::gptq {

namespace {
constexpr int64_t kTokensAtOnce = 8192;  // converted to float32 together
}  // namespace

void Hessian::observe_on_device(const at::Tensor& x) {
  if (!sum_.defined()) sum_ = at::zeros({columns_, columns_}, x.options().dtype(at::kFloat));
  for (int64_t first = 0; first < x.size(0); first += kTokensAtOnce) {
    const at::Tensor part = x.narrow(0, first, std::min(kTokensAtOnce, x.size(0) - first)).to(at::kFloat);
    sum_.addmm_(part.t(), part);
  }
  tokens_ += x.size(0);
}

}  // namespace tenon::gptq
