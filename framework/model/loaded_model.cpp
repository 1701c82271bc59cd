#include "model/loaded_model.h"

#include "model/dense_filler.h"
#include "model/parts.h"

namespace tenon::host {

std::vector<AdapterParameter> LoadedModel::trainable() const {
  std::vector<AdapterParameter> leaves;
  for (const auto& loaded : adapters)
    for (auto& parameter : loaded.adapter->state())
      if (parameter.tensor.requires_grad()) leaves.push_back(std::move(parameter));
  if (auto* own = dynamic_cast<ModelParts*>(parts.get())) {
    for (const auto& slot : own->slots()) {
      if (!slot->spec().tied_to.empty()) continue;
      if (auto* dense = dynamic_cast<DenseFiller*>(slot->filler_ptr().get())) {
        if (dense->weight().requires_grad()) leaves.push_back({slot->spec().path + ".weight", dense->weight()});
        if (dense->bias().defined() && dense->bias().requires_grad()) leaves.push_back({slot->spec().path + ".bias", dense->bias()});
      }
    }
    for (const auto& dense : own->denses())
      if (dense->value.defined() && dense->value.requires_grad()) leaves.push_back({dense->spec.path, dense->value});
  }
  return leaves;
}

void LoadedModel::set_training(bool training) {
  for (auto& loaded : adapters) loaded.adapter->set_training(training);
}

void LoadedModel::set_adapters_enabled(bool enabled) {
  for (auto& loaded : adapters) loaded.adapter->set_enabled(enabled);
}

std::vector<int64_t> LoadedModel::eos_ids() const {
  auto read = [](const Value& from) {
    std::vector<int64_t> ids;
    if (const Value* eos = from.find_set("eos_token_id")) {
      if (eos->is_list())
        for (const auto& id : eos->as_list()) ids.push_back(id.as_int());
      else
        ids.push_back(eos->as_int());
    }
    return ids;
  };
  if (checkpoint)
    if (auto ids = read(checkpoint->generation_config()); !ids.empty()) return ids;
  if (auto ids = read(config); !ids.empty()) return ids;
  // Of a model of several parts the text model's config says it.
  if (const Value* inner = config.find_set("text_config"); inner && inner->is_table())
    if (auto ids = read(*inner); !ids.empty()) return ids;
  if (text && text->eos()) return {*text->eos()};
  return {};
}

}  // namespace tenon::host
