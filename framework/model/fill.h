#pragma once
// The fill: streams every weight from the mapped file into its slot. Read -> (adapter prepares) -> quantize -> place -> let the pages go, in panels of rows, on
// all cores; host memory stays bounded by the result plus a panel per core.
#include <functional>
#include <set>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "model/choose.h"
#include "model/loaded_model.h"
#include "model/parts.h"
#include "model/precision.h"

namespace tenon::host {

struct FillRequest {
  ModelParts& parts;
  const Plan& plan;
  std::shared_ptr<Checkpoint> checkpoint;  // null or without weights: random initialisation
  const std::vector<ActiveQuantizer>& quantizers;
  const std::vector<LoadedAdapter>& adapters;
  bool random = false;
  double initializer_range = 0.02;
  uint64_t seed = 0;
  bool train_dense = false;                           // dense weights become trainable leaves
  const std::set<std::string>* frozen = nullptr;      // but for these
  const std::set<std::string>* deferred = nullptr;    // slots that stay empty: calibrate.h fills them
  const std::set<std::string>* only_dense = nullptr;  // these slots and nothing else, dense whatever the plan says
};

struct FillReport {
  int64_t bytes_read = 0, bytes_resident = 0;
  double seconds = 0;
  std::vector<std::string> notes;
};

FillReport fill_model(const FillRequest& request);

// The tensors as the slot's filler, compared with what the quantizer's resident() promised.
std::shared_ptr<Filler> quantized_filler(const SlotSpec& spec, const ActiveQuantizer& quantizer, Tensors tensors, at::Tensor bias);
// Gives tied slots what fills the slots they share a weight with.
void fill_tied(ModelParts& parts);

// What the fill holds at once beyond its result.
int64_t fill_scratch_bytes(const Blueprint& blueprint, const Plan& plan);

}  // namespace tenon::host
