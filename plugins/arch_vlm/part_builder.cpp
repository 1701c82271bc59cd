#include "part_builder.h"

namespace tenon::vlm {

PartBuilder::PartBuilder(Blueprint& blueprint, std::string path, Prefixes files, const std::string& blocks, int64_t count, std::string part)
    : blueprint_(blueprint),
      path_(std::move(path)),
      part_(std::move(part)),
      files_(std::move(files)),
      stack_(static_cast<int>(blueprint.stacks.size())) {
  blueprint_.stacks.push_back({path_ + "." + blocks, count});
}

std::vector<Source> PartBuilder::sources(const std::string& name) const {
  std::vector<Source> all;
  for (const std::string& prefix : files_) all.push_back(Source::rename(prefix + name));
  return all;
}

void PartBuilder::linear(const std::string& name, int64_t out, int64_t in, bool bias, int64_t block, int stage, std::string input_group,
                         Partition partition) {
  SlotSpec slot;
  slot.path = path_ + "." + name;
  slot.out = out, slot.in = in, slot.bias = bias;
  slot.stack = stack_, slot.block = block, slot.stage = stage;
  slot.input_group = std::move(input_group);
  slot.partition = partition;
  slot.part = part_;
  slot.sources = sources(name + ".weight");
  if (bias) slot.bias_sources = sources(name + ".bias");
  blueprint_.slots.push_back(std::move(slot));
}

void PartBuilder::tensor(const std::string& name, std::vector<int64_t> shape, DenseKind kind, int64_t block) {
  DenseSpec tensor;
  tensor.path = path_ + "." + name;
  tensor.kind = kind, tensor.shape = std::move(shape);
  tensor.stack = stack_, tensor.block = block;
  tensor.part = part_;
  tensor.sources = sources(name);
  blueprint_.tensors.push_back(std::move(tensor));
}

void PartBuilder::norm(const std::string& name, int64_t width, bool bias, int64_t block) {
  tensor(name + ".weight", {width}, DenseKind::Norm, block);
  if (bias) tensor(name + ".bias", {width}, DenseKind::Other, block);
}

}  // namespace tenon::vlm
