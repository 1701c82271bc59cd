#pragma once
// A blueprint: every slot and tensor that a model will hold, as data, before any weight is read. An architecture makes it
// from config.json alone; patches may edit it; the plan is computed from it.
#include <string>
#include <vector>

#include "tenon/slot.h"

namespace tenon {

// A run of equal-natured blocks that the host may execute, checkpoint and place one by one.
struct BlockStack {
  std::string path;  // "model.layers"
  int64_t count = 0;
};

// What one block keeps for its backward pass when nothing is recomputed, beyond what adapters keep: elements per token. The plan turns it
// into bytes; `host run` prints the measured peak beside it.
struct ActivationCost {
  double compute = 0;  // elements in the compute dtype, per token
  double float32 = 0;  // elements in float32, per token
  double scores = 0;   // attention score elements kept, per token and per key (0: flash attention)
};

struct Blueprint {
  std::string model_type;
  int64_t vocab_size = 0, hidden_size = 0, context_length = 0;
  std::vector<BlockStack> stacks;
  std::vector<SlotSpec> slots;
  std::vector<DenseSpec> tensors;
  std::vector<ActivationCost> block_activations;  // one per stack
  double cache_elements_per_token = 0;            // of all blocks together, in the compute dtype
  int64_t loss_chunk_tokens = 0;                  // tokens whose logits are held at once while training; 0: all
  std::vector<std::string> seams;                 // names of the seams this model goes through
  // Regular expressions (full match) of checkpoint tensors that may be there and are not needed.
  std::vector<std::string> ignorable;

  const SlotSpec* find_slot(const std::string& path) const {
    for (const auto& slot : slots)
      if (slot.path == path) return &slot;
    return nullptr;
  }
};

}  // namespace tenon
