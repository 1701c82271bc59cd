#pragma once
// Rotary position embeddings: frequencies from a config, tables from positions, and the rotation itself.
#include <ATen/core/Tensor.h>

#include "tenon/export.h"
#include "tenon/nn/config_reader.h"
#include "tenon/seams.h"

namespace tenon::nn {

struct RotarySpec {
  at::Tensor inv_freq;  // [rotary_dim / 2] float32
  double attention_scaling = 1;
};

// From rope_parameters, or rope_scaling with "rope_type" or "type", and rope_theta inside or beside it. Types default, linear, llama3; others are
// problems that name the patch which brings them.
TENON_API RotarySpec read_rotary(ConfigReader& reader, int64_t head_dim, int64_t max_positions);

// The default of the rotary seam; axis 0 of the positions.
TENON_API Rotary rotary_tables(const RotaryArgs& args);

// Turns pairs (i, i + rotary_dim / 2) of each head; what lies behind rotary_dim stays. x: [B, T, heads, head_dim], unit stride in the last
// dimension -> the same shape, contiguous. With `may_overwrite` and no autograd the result may be x itself. Computed in float32.
TENON_API at::Tensor apply_rotary(const at::Tensor& x, const Rotary& rotary, bool may_overwrite = false);

}  // namespace tenon::nn
