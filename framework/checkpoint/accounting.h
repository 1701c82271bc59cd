#pragma once
// Key accounting: which tensors of a checkpoint fill which slot of a blueprint, and that none is missing, left over or misshapen.
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "tenon/blueprint.h"

namespace tenon::host {

// Where the bytes of one slot come from.
struct SlotWeights {
  Source weight;  // empty pieces: tied, or stored packed
  std::optional<Source> bias;
  std::vector<std::string> packed;  // as Quantizer::locate named them; the quantizer unpacks these
};

struct WeightMap {
  std::map<std::string, SlotWeights> slots;  // by path; tied slots are absent
  std::map<std::string, Source> tensors;     // by path of the DenseSpec
  std::vector<std::string> stored_tied;      // paths of tied slots whose weight is stored all the same: accepted and ignored
};

// Names of the file tensors that hold a slot packed; empty: it is stored dense. Quantizer::locate of the slot's quantizer.
using PackedNames = std::function<std::vector<std::string>(const SlotSpec&)>;

// For each slot and tensor the first of its sources whose tensors all exist with the right shapes. Reads headers only.
// Throws one Error(Data) that lists all missing, surplus and misshapen tensors, grouped over layers, with a guess at the cause.
WeightMap account(const Blueprint& blueprint, const Checkpoint& checkpoint, const PackedNames& packed_names = nullptr);

// One sentence for each of `stored_tied` whose stored values differ from the weight it is tied to. Compares a sample of rows.
std::vector<std::string> differing_tied_weights(const Blueprint& blueprint, const Checkpoint& checkpoint, const WeightMap& weights);

// File tensors that make up one member of a stack; 0 when they do not come out even, or for no stack.
int64_t pieces_per_member(const Source& source, const std::vector<int64_t>& shape);

// Shapes as sources must provide them.
std::vector<int64_t> weight_shape(const SlotSpec& slot);  // [out, in], experts [count, out, in]
std::vector<int64_t> bias_shape(const SlotSpec& slot);    // [out], experts [count, out]

}  // namespace tenon::host
