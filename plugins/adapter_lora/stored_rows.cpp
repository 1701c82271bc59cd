#include "stored_rows.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/embedding.h>

#include <algorithm>

#include "tenon/new_rows.h"
#include "tenon/nn/linear.h"

namespace tenon::lora {

std::vector<std::string> known_paths(const SlotSpec& slot) {
  std::vector<std::string> paths{slot.path};
  for (const auto& source : slot.sources)
    if (const Source stored = split_new_rows(source).stored; stored.pieces.size() == 1 && !source.stack)
      if (const std::string& tensor = stored.pieces[0].tensor; tensor.ends_with(".weight"))
        paths.push_back(tensor.substr(0, tensor.size() - 7));
  for (size_t i = 0, n = paths.size(); i < n; ++i)
    if (paths[i].starts_with("model.")) paths.push_back(paths[i].substr(6));
  return paths;
}

bool may_be_stored(const SlotSpec& slot) { return slot.role != SlotRole::Inner; }

bool names_tensor(const LoraOptions& options, const std::string& name) {
  if (!options.stored_tensors.is_list()) return false;
  const auto& names = options.stored_tensors.as_list();
  return std::any_of(names.begin(), names.end(), [&](const Value& stored) { return stored.as_string() == name; });
}

std::set<std::string> stored_slots(const LoraOptions& options, const Blueprint& blueprint,
                                   const std::function<bool(const SlotSpec&)>& is_whole) {
  std::set<std::string> owners, paths;
  if (!options.stored_tensors.is_list()) return paths;
  std::set<std::string> names;
  for (const Value& name : options.stored_tensors.as_list())
    if (const std::string& key = name.as_string(); key.starts_with(kKeyPrefix)) names.insert(key.substr(std::string(kKeyPrefix).size()));
  const auto owner_of = [](const SlotSpec& slot) { return slot.tied_to.empty() ? slot.path : slot.tied_to; };
  for (const SlotSpec& slot : blueprint.slots) {
    if (!may_be_stored(slot)) continue;
    const std::vector<std::string> known = known_paths(slot);
    const auto holds = [&](const char* tail) {
      return std::any_of(known.begin(), known.end(), [&](const auto& path) { return names.count(path + tail) > 0; });
    };
    if (holds(".base_layer.weight") || holds(".original_module.weight") || (!is_whole(slot) && holds(".weight")))
      owners.insert(owner_of(slot));
  }
  for (const SlotSpec& slot : blueprint.slots)
    if (owners.count(owner_of(slot))) paths.insert(slot.path);
  return paths;
}

at::Tensor StoredRowsFiller::linear(const at::Tensor& x) {
  if (base_) return base_->linear(x);
  const at::Tensor& weight = cast_.get(weight_, x.scalar_type());
  return bias_.defined() ? nn::linear(x, weight, bias_.to(x.scalar_type())) : nn::linear(x, weight);
}

at::Tensor StoredRowsFiller::rows(const at::Tensor& ids, at::ScalarType dtype) {
  return base_ ? base_->rows(ids, dtype) : at::embedding(weight_, ids).to(dtype);
}

at::Tensor StoredRowsFiller::dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const {
  if (base_) return base_->dense_rows(dtype, first, last);
  at::NoGradGuard no_grad;
  return weight_.narrow(0, first, last - first).to(dtype);
}

void StoredRowsFiller::replace(at::Tensor weight) {
  if (base_) bias_ = base_->bias();
  weight_ = std::move(weight);
  base_.reset();
}

}  // namespace tenon::lora
