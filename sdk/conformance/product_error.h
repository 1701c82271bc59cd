#pragma once
#include <ATen/core/Tensor.h>

namespace tenon::conformance {

// x . weight^T in float64, on the CPU.
at::Tensor exact_product(const at::Tensor& x, const at::Tensor& weight);

// How far `found` is from it, over all results together: RMS of the difference by the size that such a sum of products has when its terms do not happen
// to cancel. One result alone may be as near to zero as it likes, and says nothing about the product's error.
double product_error(const at::Tensor& found, const at::Tensor& x, const at::Tensor& weight);

}  // namespace tenon::conformance
