#include "kit_parts.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randint.h>

#include <algorithm>

#include "quantizer_kit.h"
#include "tenon/nn/experts.h"

namespace tenon::conformance {

at::Tensor KitFiller::linear(const at::Tensor& x) {
  return at::linear(x, weight_.to(x.scalar_type()), bias_.defined() ? bias_.to(x.scalar_type()) : bias_);
}
at::Tensor KitFiller::grouped(const at::Tensor& x, const at::Tensor& offsets) {
  return nn::grouped_linear(x, offsets, weight_.to(x.scalar_type()));
}
at::Tensor KitFiller::rows(const at::Tensor& ids, at::ScalarType dtype) { return at::embedding(weight_, ids).to(dtype); }
at::Tensor KitFiller::dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const {
  return weight_.detach().narrow(0, first, last - first).to(dtype);
}

KitParts::KitParts(Blueprint blueprint) : blueprint_(std::move(blueprint)) {
  for (const auto& spec : blueprint_.slots) slots_[spec.path] = std::make_unique<Slot>(spec);
  for (const auto& spec : blueprint_.tensors) denses_[spec.path] = std::make_unique<Dense>(Dense{spec, {}});
}

Slot& KitParts::slot(const std::string& path) {
  const auto found = slots_.find(path);
  if (found == slots_.end()) fail(ErrorCode::Internal, "the blueprint has no slot '", path, "'");
  return *found->second;
}

Dense& KitParts::dense(const std::string& path) {
  const auto found = denses_.find(path);
  if (found == denses_.end()) fail(ErrorCode::Internal, "the blueprint has no tensor '", path, "'");
  return *found->second;
}

void KitParts::fill(uint64_t seed, bool trainable) {
  uint64_t number = seed;
  for (const auto& spec : blueprint_.slots) {
    if (!spec.tied_to.empty()) continue;
    std::vector<int64_t> shape{spec.out, spec.in};
    if (spec.kind == SlotKind::Experts) shape.insert(shape.begin(), spec.count);
    at::Tensor bias;
    if (spec.bias) bias = normal({spec.out}, ++number, at::kFloat, 0.1).set_requires_grad(trainable);
    // Large enough that attention is not flat, small enough that nothing saturates.
    fillers_[spec.path] = std::make_shared<KitFiller>(normal(shape, ++number, at::kFloat, 0.15).set_requires_grad(trainable), bias);
  }
  for (const auto& spec : blueprint_.slots) {
    if (!spec.tied_to.empty()) fillers_[spec.path] = fillers_.at(spec.tied_to);
    slots_.at(spec.path)->fill(fillers_.at(spec.path));
  }
  for (const auto& spec : blueprint_.tensors) {
    at::Tensor value = normal(spec.shape, ++number, at::kFloat, 0.1);
    if (spec.kind == DenseKind::Norm) value.add_(1);
    denses_.at(spec.path)->value = value.set_requires_grad(trainable);
  }
}

std::vector<std::pair<std::string, at::Tensor>> KitParts::leaves() const {
  std::vector<std::pair<std::string, at::Tensor>> all;
  for (const auto& spec : blueprint_.slots) {
    if (!spec.tied_to.empty()) continue;
    const KitFiller& filler = original(spec.path);
    all.emplace_back(spec.path + ".weight", filler.weight());
    if (filler.bias().defined()) all.emplace_back(spec.path + ".bias", filler.bias());
  }
  for (const auto& [path, dense] : denses_) all.emplace_back(path, dense->value);
  return all;
}

at::Tensor run_hidden(Model& model, const Batch& batch, Cache* cache) {
  State state = model.begin(batch, cache);
  const auto& stacks = model.blueprint().stacks;
  for (size_t s = 0; s < stacks.size(); ++s)
    for (int64_t i = 0; i < stacks[s].count; ++i) model.run_block(static_cast<int>(s), i, state);
  return model.finish(state);
}

at::Tensor run_logits(Model& model, const Batch& batch, Cache* cache) { return model.logits(run_hidden(model, batch, cache)); }

at::Tensor random_ids(int64_t batch, int64_t time, int64_t vocab, uint64_t seed) {
  return at::randint(0, vocab, {batch, time}, at::detail::createCPUGenerator(seed), at::TensorOptions().dtype(at::kLong));
}

double relative_max(const at::Tensor& a, const at::Tensor& b) {
  if (b.numel() == 0) return 0;
  const at::Tensor x = a.detach().to(at::kDouble), y = b.detach().to(at::kDouble);
  return (x - y).abs().max().item<double>() / std::max(y.abs().max().item<double>(), 1e-30);
}

}  // namespace tenon::conformance
