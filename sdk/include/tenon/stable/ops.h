#pragma once
// Operations on tensors that torch/csrc/stable/ops.h leaves out or makes slow, and a way to call any other by its name.
#include <torch/csrc/stable/ops.h>

#include <array>
#include <optional>
#include <vector>

#include "tenon/stable/types.h"

#pragma GCC visibility push(hidden)
namespace tenon::stable {

// Call these with their namespace in front, ops::mul(a, b): LibTorch has functions of the same names, which a bare call would find as well.
namespace ops {

// Any operation of LibTorch by its schema: ops::call("aten::mul", "Tensor", a, b). Arguments are all of the schema's, in order; scalars (the
// schema's Scalar) are not possible, tensors of no dimension stand for them. Names reached this way are LibTorch's best effort, not its promise.
template <class Result = Tensor, class... Arguments>
Result call(const char* name, const char* overload, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments) == 0 ? 1 : sizeof...(Arguments)> stack{torch::stable::detail::from(arguments)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Result>(stack[0]);
}

inline std::vector<int64_t> shape_of(const Tensor& t) {
  const auto sizes = t.sizes();
  return {sizes.begin(), sizes.end()};
}

inline std::vector<int64_t> contiguous_strides(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0; step *= shape[i] > 0 ? shape[i] : 1) strides[i] = step;
  return strides;
}

// Uninitialized.
inline Tensor empty(const std::vector<int64_t>& shape, ScalarType dtype, Device device = kCPU) {
  tenon_tensor t = nullptr;
  const auto strides = ops::contiguous_strides(shape);
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), strides.data(),
                                                  static_cast<int32_t>(dtype), static_cast<int32_t>(device.type()), device.index(), &t));
  return Tensor(t);
}
inline Tensor full(const std::vector<int64_t>& shape, double value, ScalarType dtype, Device device = kCPU) {
  Tensor t = ops::empty(shape, dtype, device);
  torch::stable::fill_(t, value);
  return t;
}
// A number as a tensor that meets `like` in an operation.
inline Tensor number(double value, const Tensor& like) { return ops::full({}, value, like.scalar_type(), like.device()); }

// These give the tensor itself where nothing is to be done.
inline Tensor contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }
inline Tensor to(const Tensor& t, ScalarType dtype) { return t.scalar_type() == dtype ? t : torch::stable::to(t, dtype); }
inline Tensor to(const Tensor& t, Device device) { return t.device() == device ? t : torch::stable::to(t, device); }
inline Tensor cpu(const Tensor& t) { return t.is_cpu() ? t : torch::stable::to(t, Device(kCPU)); }

// One dimension may be -1. The same bytes where they lie in order, else a copy.
inline Tensor reshape(const Tensor& t, std::vector<int64_t> shape) {
  int64_t known = 1;
  int64_t* open = nullptr;
  for (int64_t& d : shape) {
    if (d < 0)
      open = &d;
    else
      known *= d;
  }
  if (open) *open = known > 0 ? t.numel() / known : 0;
  if (shape == ops::shape_of(t)) return t;
  const int64_t numel = open ? known * *open : known;
  if (numel != t.numel()) fail(ErrorCode::Plugin, "a tensor of ", t.numel(), " elements cannot take a shape of ", numel);
  if (!t.is_contiguous()) return torch::stable::reshape(t, torch::headeronly::IntHeaderOnlyArrayRef(shape.data(), shape.size()));
  tenon_tensor view = nullptr;
  const auto strides = ops::contiguous_strides(shape);
  // The offset counts from where `t` begins.
  TORCH_ERROR_CODE_CHECK(
      aoti_torch__reinterpret_tensor(t.get(), static_cast<int64_t>(shape.size()), shape.data(), strides.data(), 0, &view));
  return Tensor(view);
}
// These share memory with `t`.
inline Tensor narrow(const Tensor& t, int64_t dim, int64_t start, int64_t length) {
  tenon_tensor view = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_aten_narrow(t.get(), dim, start, length, &view));
  return Tensor(view);
}
// Rows [first, last) of dimension 0.
inline Tensor rows(const Tensor& t, int64_t first, int64_t last) { return ops::narrow(t, 0, first, last - first); }
// Into memory that is there, converting where dtypes differ.
inline void copy(const Tensor& target, const Tensor& source) { TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(target.get(), source.get(), 0)); }

inline Tensor abs(const Tensor& a) { return ops::call("aten::abs", "", a); }
inline Tensor round(const Tensor& a) { return ops::call("aten::round", "", a); }
inline Tensor sqrt(const Tensor& a) { return ops::call("aten::sqrt", "", a); }
inline Tensor add(const Tensor& a, const Tensor& b) { return torch::stable::subtract(a, b, -1.0); }  // `add` takes a Scalar
inline Tensor sub(const Tensor& a, const Tensor& b) { return torch::stable::subtract(a, b); }
inline Tensor mul(const Tensor& a, const Tensor& b) { return ops::call("aten::mul", "Tensor", a, b); }
inline Tensor mul(const Tensor& a, double b) { return ops::mul(a, ops::number(b, a)); }
inline Tensor div(const Tensor& a, const Tensor& b) { return ops::call("aten::div", "Tensor", a, b); }
inline Tensor maximum(const Tensor& a, const Tensor& b) { return ops::call("aten::maximum", "", a, b); }
inline Tensor minimum(const Tensor& a, const Tensor& b) { return ops::call("aten::minimum", "", a, b); }
inline Tensor clamp(const Tensor& a, double least, double most) {
  return ops::minimum(ops::maximum(a, ops::number(least, a)), ops::number(most, a));
}
inline Tensor amax(const Tensor& a, int64_t dim, bool keepdim) { return torch::stable::amax(a, dim, keepdim); }
inline Tensor amin(const Tensor& a, int64_t dim, bool keepdim) {
  return ops::mul(torch::stable::amax(ops::mul(a, -1.0), dim, keepdim), -1.0);
}
inline Tensor matmul(const Tensor& a, const Tensor& b) { return torch::stable::matmul(a, b); }
// x [..., in] with weight [out, in].
inline Tensor linear(const Tensor& x, const Tensor& weight) { return ops::call("aten::linear", "", x, weight, std::optional<Tensor>()); }

}  // namespace ops
}  // namespace tenon::stable
#pragma GCC visibility pop
