#pragma once
// From a recipe to a model in memory, in the order of the design: checkpoint, patch:config, blueprint, patch:blueprint, plan, build, patch:seams, fill,
// patch:model, adapt.
#include <functional>
#include <memory>

#include "model/loaded_model.h"

namespace tenon::host {

struct DeviceBudget {
  std::string name;  // "cpu", "cuda:0"
  int64_t bytes = 0;
};

struct LoadRequest {
  const Recipe* recipe = nullptr;
  Registry* registry = nullptr;
  bool for_training = false;                  // the recipe has [train] and the verb runs it
  bool want_text = false;                     // the verb needs the tokenizer: its absence or damage is an error
  std::vector<DeviceBudget> assumed_devices;  // plan only; empty: this machine
};

// Everything before the fill: no weight byte is read, all slots stay empty; seams are resolved, so that the plan can show them. Throws one Error(Recipe) with all option problems of all plugins the recipe names.
std::unique_ptr<LoadedModel> plan_model(const LoadRequest& request);
// The rest of the way.
std::unique_ptr<LoadedModel> load_model(const LoadRequest& request);

}  // namespace tenon::host
