#pragma once
// Where things live: spreads a row of units over devices. A unit is what must stay together: what comes before the blocks, one block, what comes after.
#include <cstdint>
#include <string>
#include <vector>

#include "model/load.h"
#include "tenon/value.h"

namespace tenon::host {

struct PlacementUnit {
  std::string path;   // "model.embed_tokens", "model.layers.3", "lm_head"
  int64_t bytes = 0;  // kept on its device for the whole run
  int tied_to = -1;   // index of the unit it shares a weight with
};

struct Placement {
  std::vector<std::string> device;  // one per unit
  std::vector<std::string> reason;
  bool fits = true;
  std::string advice;
};

// device_map: auto | balanced | sequential | a device | a table "prefix" = device. budgets: usable bytes per device, CUDA devices first; `reserve` bytes of each device that
// gets a unit are kept free for what is shared by its units (scratch, activations). Error(Recipe) for a map that names unknown devices or splits a block.
Placement place(const std::vector<PlacementUnit>& units, const Value& device_map, const std::vector<DeviceBudget>& budgets,
                int64_t reserve);

}  // namespace tenon::host
