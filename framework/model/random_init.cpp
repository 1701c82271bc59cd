#include "model/random_init.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/normal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

namespace tenon::host {

namespace {
// FNV-1a: the stream of a tensor follows from its path.
uint64_t hash(const std::string& text) {
  uint64_t h = 1469598103934665603ull;
  for (unsigned char c : text) h = (h ^ c) * 1099511628211ull;
  return h;
}
}  // namespace

at::Tensor initial_weight(const SlotSpec& slot, at::ScalarType dtype, double range, uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed ^ hash(slot.path));
  std::vector<int64_t> shape{slot.out, slot.in};
  if (slot.count > 1) shape.insert(shape.begin(), slot.count);
  at::Tensor weight = at::empty(shape, at::kFloat);
  weight.normal_(0, range, generator);
  return weight.to(dtype);
}

at::Tensor initial_dense(const DenseSpec& dense, at::ScalarType dtype) {
  return dense.kind == DenseKind::Norm ? at::ones(dense.shape, at::TensorOptions().dtype(dtype))
                                       : at::zeros(dense.shape, at::TensorOptions().dtype(dtype));
}

}  // namespace tenon::host
