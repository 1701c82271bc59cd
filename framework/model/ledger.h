#pragma once
// The arithmetic of the plan: bytes of every tensor after quantization, of adapters, gradients, optimizer state and activations, and their places.
#include <set>
#include <string>
#include <vector>

#include "model/choose.h"
#include "model/load.h"
#include "model/parts.h"
#include "model/precision.h"

namespace tenon::host {

struct LedgerInputs {
  const Recipe& recipe;
  const Blueprint& blueprint;
  const std::vector<ActiveQuantizer>& quantizers;
  const std::vector<LoadedAdapter>& adapters;
  const DtypePolicy& dtypes;
  Purpose purpose = Purpose::Inference;
  bool for_training = false;
  const std::set<std::string>& frozen;  // of a full training
  std::vector<DeviceBudget> devices;    // CUDA first, cpu last
  int64_t process_bytes = 0;            // what this process holds before loading, LibTorch included
};

struct Ledger {
  Plan plan;
  ModelParts::Devices devices;
};

Ledger make_ledger(const LedgerInputs& in);

}  // namespace tenon::host
