#include "projector.h"

#include <ATen/ops/layer_norm.h>

#include "tenon/nn/activation.h"

namespace tenon::vlm {

namespace {
constexpr int kStack = 0;
constexpr double kEps = 1e-5;  // of the norm; no config has it
}  // namespace

void add_projector(Blueprint& blueprint, const ProjectorSpec& spec) {
  const auto sources = [&](const std::string& name) {
    std::vector<Source> all;
    for (const std::string& prefix : spec.files) all.push_back(Source::rename(prefix + name));
    return all;
  };
  int stage = spec.first_stage;
  for (const auto& [name, out, in] : {std::tuple{"linear_1", spec.width, spec.in}, {"linear_2", spec.out, spec.width}}) {
    SlotSpec slot;
    slot.path = concat(spec.path, ".", name);
    slot.out = out, slot.in = in, slot.bias = spec.bias;
    slot.part = "projector";
    slot.stack = kStack, slot.block = spec.block, slot.stage = stage++;
    slot.sources = sources(concat(name, ".weight"));
    if (slot.bias) slot.bias_sources = sources(concat(name, ".bias"));
    blueprint.slots.push_back(std::move(slot));
  }
  if (!spec.has_norm) return;
  for (const auto& [name, kind] : {std::pair{"layer_norm.weight", DenseKind::Norm}, {"layer_norm.bias", DenseKind::Other}}) {
    DenseSpec tensor;
    tensor.path = concat(spec.path, ".", name);
    tensor.kind = kind, tensor.shape = {spec.in};
    tensor.part = "projector";
    tensor.stack = kStack, tensor.block = spec.block;
    tensor.sources = sources(name);
    blueprint.tensors.push_back(std::move(tensor));
  }
}

Projector::Projector(Parts& parts, const std::string& path, std::string activation, bool has_norm)
    : activation_(std::move(activation)), linear_1_(&parts.slot(path + ".linear_1")), linear_2_(&parts.slot(path + ".linear_2")) {
  if (has_norm) norm_ = &parts.dense(path + ".layer_norm.weight"), norm_bias_ = &parts.dense(path + ".layer_norm.bias");
}

at::Tensor Projector::operator()(const at::Tensor& features) const {
  at::Tensor x = features;
  if (norm_)
    x = at::layer_norm(x.to(at::kFloat), {x.size(-1)}, norm_->value.to(at::kFloat), norm_bias_->value.to(at::kFloat), kEps)
            .to(x.scalar_type());
  const at::Tensor up = linear_1_->linear(x);
  return linear_2_->linear(nn::activate({.gate = up, .up = {}, .name = &activation_}));
}

}  // namespace tenon::vlm
