#include "model/parts.h"

namespace tenon::host {

ModelParts::ModelParts(Blueprint blueprint, Precision precision, Devices devices)
    : blueprint_(std::move(blueprint)), precision_(precision), devices_(std::move(devices)) {
  for (const SlotSpec& spec : blueprint_.slots) {
    slot_index_[spec.path] = slots_.size();
    slots_.push_back(std::make_unique<Slot>(spec));
  }
  for (const DenseSpec& spec : blueprint_.tensors) {
    dense_index_[spec.path] = denses_.size();
    denses_.push_back(std::make_unique<Dense>(Dense{spec, {}}));
  }
}

Slot& ModelParts::slot(const std::string& path) {
  auto it = slot_index_.find(path);
  if (it == slot_index_.end()) fail(ErrorCode::Internal, "the blueprint has no slot '", path, "'");
  return *slots_[it->second];
}

Dense& ModelParts::dense(const std::string& path) {
  auto it = dense_index_.find(path);
  if (it == dense_index_.end()) fail(ErrorCode::Internal, "the blueprint has no tensor '", path, "'");
  return *denses_[it->second];
}

at::Device ModelParts::device(int stack, int64_t block) const {
  if (stack < 0) return block == 0 ? devices_.before : devices_.after;
  return devices_.blocks.at(static_cast<size_t>(stack)).at(static_cast<size_t>(block));
}

}  // namespace tenon::host
