#include "tenon/filler.h"

#include "tenon/error.h"

namespace tenon {

at::Tensor Filler::linear(const at::Tensor&) { fail(ErrorCode::Internal, "a filler '", describe(), "' was used as a linear layer"); }
at::Tensor Filler::rows(const at::Tensor&, at::ScalarType) {
  fail(ErrorCode::Internal, "a filler '", describe(), "' was used as an embedding");
}
at::Tensor Filler::grouped(const at::Tensor&, const at::Tensor&) {
  fail(ErrorCode::Internal, "a filler '", describe(), "' was used for experts");
}

std::vector<at::Tensor> Filler::linear_many(std::span<Filler* const> group, const at::Tensor& x) {
  std::vector<at::Tensor> outputs;
  outputs.reserve(group.size());
  for (Filler* filler : group) outputs.push_back(filler->linear(x));
  return outputs;
}

Filler& Slot::filler() const {
  if (!filler_) fail(ErrorCode::Internal, "slot '", spec_.path, "' is empty");
  return *filler_;
}

std::vector<at::Tensor> linear_many(std::initializer_list<const Slot*> slots, const at::Tensor& x) {
  std::vector<Filler*> group;
  group.reserve(slots.size());
  for (const Slot* slot : slots) group.push_back(&slot->filler());
  return group.front()->linear_many(group, x);
}

}  // namespace tenon
