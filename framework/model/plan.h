#pragma once
// The plan: for each slot what fills it, where it lives, how many bytes, and why; what a run will need at its peak.
// Computed from the blueprint, the recipe, the plugins' answers and the devices, before any weight byte is read.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tenon/blueprint.h"
#include "tenon/model.h"
#include "tenon/quantizer.h"
#include "tenon/value.h"

namespace tenon::host {

struct PlannedDevice {
  std::string name;      // "cpu", "cuda:0"
  int64_t capacity = 0;  // bytes usable: max_memory, else free memory when planned
  int64_t weights = 0, adapters = 0, gradients = 0, optimizer = 0, activations = 0;
  int64_t total() const { return weights + adapters + gradients + optimizer + activations; }
};

struct PlannedModule {
  std::string path;
  std::string filler;  // a quantizer's name, "bfloat16", or "tied"
  std::string device;
  std::string dtype;  // of the dense form
  int64_t bytes = 0;
  std::string reason;                    // why this filler and this place
  const Quantizer* quantizer = nullptr;  // null: dense
  at::ScalarType dense_dtype = at::kFloat;
};

struct PlanTotals {
  int64_t weights = 0, adapters = 0, gradients = 0, optimizer = 0, activations = 0, host_peak = 0;
};

struct Plan {
  PlanTotals totals;
  int64_t parameters_total = 0, parameters_trainable = 0, parameters_quantized = 0;
  std::vector<PlannedDevice> devices;
  std::vector<PlannedModule> modules;                                   // slots and dense tensors, blueprint order
  std::vector<std::pair<std::string, std::vector<std::string>>> seams;  // seam -> chain, innermost first
  bool fits = true;
  std::string advice;                                  // the smallest change that would fit, when it does not
  std::vector<int64_t> recompute;                      // blocks (flat index over stacks) whose activations are recomputed in backward
  std::vector<std::shared_ptr<Quantizer>> quantizers;  // keeps PlannedModule::quantizer alive
  std::vector<std::string> notes;

  const PlannedModule* find(const std::string& path) const;
  Value to_json_value() const;  // the keys of the outside contract
  std::string to_text() const;  // the ledger
};

}  // namespace tenon::host
