#pragma once
// Rotary position embeddings: frequencies from a config, tables from positions, and the rotation itself.
#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <string>

#include "tenon/export.h"
#include "tenon/nn/config_reader.h"
#include "tenon/seams.h"

namespace tenon::nn {

struct RotarySpec {
  at::Tensor inv_freq;  // [rotary_dim / 2] float32, within the original context
  double attention_scaling = 1;
  // For types whose frequencies follow the length of the sequence (dynamic, longrope): those for a last position of length - 1. Empty for the others.
  std::function<at::Tensor(int64_t length)> at_length;

  // The frequencies for these positions [axes, B, T], on their device. Looks at the positions only where the type asks for it.
  at::Tensor frequencies(const at::Tensor& positions) const;
};

// What a family's config class does its own way.
struct RotaryRules {
  double theta = 10000;            // where the config gives none
  bool partial = false;            // partial_rotary_factor is served: only the first pairs of a head turn, and inv_freq is shorter
  int64_t original_positions = 0;  // not 0: original_max_position_embeddings stands beside the table only, with this default
  std::map<std::string, std::string> renamed_types = {};  // old names of rope types
};

// From rope_parameters, or rope_scaling with "rope_type" or "type", and rope_theta inside or beside it. Types default, linear, dynamic, yarn (arXiv:2309.00071),
// longrope (arXiv:2402.13753), llama3, proportional, as transformers computes them but for one thing: what dynamic does depends on this call's
// length alone, not on longer calls before it.
TENON_API RotarySpec read_rotary(ConfigReader& reader, int64_t head_dim, int64_t max_positions, const RotaryRules& rules = {});

// The default of the rotary seam; axis 0 of the positions.
TENON_API Rotary rotary_tables(const RotaryArgs& args);

// Turns pairs (i, i + rotary_dim / 2) of each head; what lies behind rotary_dim stays. x: [B, T, heads, head_dim], unit stride in the last
// dimension -> the same shape, contiguous. With `may_overwrite` and no autograd the result may be x itself. Computed in float32.
TENON_API at::Tensor apply_rotary(const at::Tensor& x, const Rotary& rotary, bool may_overwrite = false);

}  // namespace tenon::nn
