#include "product_error.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>

#include <cmath>

namespace tenon::conformance {

at::Tensor exact_product(const at::Tensor& x, const at::Tensor& weight) {
  return at::matmul(x.to(at::kCPU, at::kDouble), weight.to(at::kCPU, at::kDouble).t());
}

double product_error(const at::Tensor& found, const at::Tensor& x, const at::Tensor& weight) {
  if (found.numel() == 0) return 0;
  const double off = (found.to(at::kCPU, at::kDouble) - exact_product(x, weight)).square().sum().item<double>(),
               size = exact_product(x.to(at::kDouble).square(), weight.to(at::kDouble).square()).sum().item<double>();
  return size > 0 ? std::sqrt(off / size) : std::sqrt(off);
}

}  // namespace tenon::conformance
