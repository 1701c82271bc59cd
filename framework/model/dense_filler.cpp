#include "model/dense_filler.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/embedding.h>

#include "tenon/error.h"
#include "tenon/nn/experts.h"
#include "tenon/nn/linear.h"

namespace tenon::host {

std::string DenseFiller::describe() const { return c10::toString(weight_.scalar_type()); }

at::Tensor DenseFiller::linear(const at::Tensor& x) {
  const at::Tensor weight = weight_.scalar_type() == x.scalar_type() ? weight_ : weight_.to(x.scalar_type());
  return nn::linear(x, weight, !bias_.defined() || bias_.scalar_type() == x.scalar_type() ? bias_ : bias_.to(x.scalar_type()));
}

at::Tensor DenseFiller::grouped(const at::Tensor& x, const at::Tensor& offsets) {
  if (bias_.defined()) fail(ErrorCode::Internal, "experts with a bias are not served");
  return nn::grouped_linear(x, offsets, weight_.scalar_type() == x.scalar_type() ? weight_ : weight_.to(x.scalar_type()));
}

at::Tensor DenseFiller::rows(const at::Tensor& ids, at::ScalarType dtype) { return at::embedding(weight_, ids).to(dtype); }

at::Tensor DenseFiller::dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const {
  at::NoGradGuard no_grad;
  return weight_.detach().narrow(0, first, last - first).to(dtype);
}

}  // namespace tenon::host
