#include "tenon/backbone.h"

namespace tenon {

namespace {
std::vector<Source> renamed(const std::vector<Source>& sources, const BackboneNames& names) {
  std::vector<Source> all;
  for (const PrefixRules& layout : names.files)
    for (Source source : sources) {
      for (auto& piece : source.pieces) piece.tensor = layout(piece.tensor);
      all.push_back(std::move(source));
    }
  return all;
}
}  // namespace

int add_backbone(Blueprint& parent, const Blueprint& child, const BackboneNames& names) {
  const int first = static_cast<int>(parent.stacks.size());
  for (const BlockStack& stack : child.stacks) parent.stacks.push_back({names.path(stack.path), stack.count});
  for (SlotSpec slot : child.slots) {
    slot.path = names.path(slot.path);
    if (!slot.tied_to.empty()) slot.tied_to = names.path(slot.tied_to);
    if (!slot.input_group.empty()) slot.input_group = names.path(slot.input_group);
    if (slot.stack >= 0) slot.stack += first;
    slot.sources = renamed(slot.sources, names);
    slot.bias_sources = renamed(slot.bias_sources, names);
    parent.slots.push_back(std::move(slot));
  }
  for (DenseSpec tensor : child.tensors) {
    tensor.path = names.path(tensor.path);
    if (tensor.stack >= 0) tensor.stack += first;
    tensor.sources = renamed(tensor.sources, names);
    parent.tensors.push_back(std::move(tensor));
  }
  parent.block_activations.insert(parent.block_activations.end(), child.block_activations.begin(), child.block_activations.end());
  parent.vocab_size = child.vocab_size, parent.hidden_size = child.hidden_size, parent.context_length = child.context_length;
  parent.cache_elements_per_token += child.cache_elements_per_token;
  parent.loss_chunk_tokens = child.loss_chunk_tokens;
  parent.seams = child.seams;
  return first;
}

BackboneParts::BackboneParts(Parts& parent, Blueprint child, BackboneNames names, int first_stack)
    : parent_(parent), blueprint_(std::move(child)), names_(std::move(names)), first_stack_(first_stack) {}
BackboneParts::~BackboneParts() = default;

}  // namespace tenon
