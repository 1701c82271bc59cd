#include "projector.h"

#include "tenon/nn/activation.h"

namespace tenon::vlm {

namespace {
constexpr const char* kPath = "model.multi_modal_projector";
// As files of transformers 4 and the modules of transformers 5 call it.
constexpr const char* kFiles[] = {"multi_modal_projector.", "model.multi_modal_projector."};
}  // namespace

void add_projector(Blueprint& blueprint, const ProjectorShape& shape) {
  for (const auto& [name, in] : {std::pair{"linear_1", shape.in}, std::pair{"linear_2", shape.out}}) {
    SlotSpec slot;
    slot.path = concat(kPath, ".", name);
    slot.out = shape.out, slot.in = in, slot.bias = shape.bias;
    slot.part = "projector";
    slot.stack = static_cast<int>(blueprint.stacks.size()) - 1, slot.block = blueprint.stacks.back().count - 1;
    for (const char* prefix : kFiles) {
      slot.sources.push_back(Source::rename(concat(prefix, name, ".weight")));
      if (slot.bias) slot.bias_sources.push_back(Source::rename(concat(prefix, name, ".bias")));
    }
    blueprint.slots.push_back(std::move(slot));
  }
}

Projector::Projector(Parts& parts, std::string activation)
    : activation_(std::move(activation)),
      linear_1_(&parts.slot(concat(kPath, ".linear_1"))),
      linear_2_(&parts.slot(concat(kPath, ".linear_2"))) {}

at::Tensor Projector::operator()(const at::Tensor& features) const {
  const at::Tensor up = linear_1_->linear(features);
  return linear_2_->linear(nn::activate({.gate = up, .up = {}, .name = &activation_}));
}

}  // namespace tenon::vlm
