#include "model/random_init.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/normal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "checkpoint/accounting.h"

namespace tenon::host {

uint64_t stream_of(const std::string& path) {
  uint64_t h = 1469598103934665603ull;  // FNV-1a
  for (unsigned char c : path) h = (h ^ c) * 1099511628211ull;
  return h;
}

namespace {
at::Tensor normal(const std::string& path, const std::vector<int64_t>& shape, at::ScalarType dtype, double range, uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed ^ stream_of(path));
  at::Tensor weight = at::empty(shape, at::kFloat);
  weight.normal_(0, range, generator);
  return weight.to(dtype);
}
}  // namespace

at::Tensor initial_weight(const SlotSpec& slot, at::ScalarType dtype, double range, uint64_t seed) {
  return normal(slot.path, weight_shape(slot), dtype, range, seed);
}

at::Tensor initial_dense(const DenseSpec& dense, at::ScalarType dtype, double range, uint64_t seed) {
  if (dense.kind == DenseKind::Router || dense.kind == DenseKind::Convolution || dense.kind == DenseKind::Position)
    return normal(dense.path, dense.shape, dtype, range, seed);
  return dense.kind == DenseKind::Norm ? at::ones(dense.shape, at::TensorOptions().dtype(dtype))
                                       : at::zeros(dense.shape, at::TensorOptions().dtype(dtype));
}

}  // namespace tenon::host
