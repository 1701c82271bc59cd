#pragma once
// Which filler each slot gets, and why.
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "recipe/recipe.h"
#include "tenon/blueprint.h"
#include "tenon/quantizer.h"

namespace tenon::host {

struct ActiveQuantizer {
  QuantizerSection section;
  std::shared_ptr<Quantizer> quantizer;
  bool from_checkpoint = false;
  std::set<std::string> stored;  // from_checkpoint: paths of the slots that are stored packed
};

struct FillerChoice {
  const ActiveQuantizer* quantizer = nullptr;  // null: dense
  std::string reason;
};

// `pattern` names a module, or components of its path: "lm_head", "model.layers.3", "self_attn.q_proj", "vision_tower".
bool module_matches(const std::string& path, const std::string& pattern);

// The rule for what stays dense by default: the output head and whatever it is tied to, embeddings, and what the quantizer itself declines. A recipe's
// skip_modules adds to the rule, it never replaces it; `embeddings = true` lifts it for embeddings and head.
FillerChoice choose_filler(const SlotSpec& slot, const Blueprint& blueprint, const std::vector<ActiveQuantizer>& quantizers);

}  // namespace tenon::host
