#pragma once
// config.json of an lfm2, read into numbers.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "tenon/nn/rotary.h"
#include "tenon/value.h"

namespace tenon::lfm2 {

struct Config {
  int64_t vocab_size = 0, hidden = 0, intermediate = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, max_positions = 0;
  double eps = 1e-5;
  bool tied = true;
  bool conv_bias = false;     // of the two projections around a convolution too
  int64_t kernel = 0;         // tokens that a convolution sees, the newest included
  std::vector<bool> attends;  // by layer; false: a short convolution
  nn::RotarySpec rotary;
  at::ScalarType dtype = at::kFloat;

  int64_t attention_layers() const;
};

// Absent keys take the defaults of transformers' config class. Error(Data) naming everything that is wrong or not served.
Config read_config(const Value& config);

}  // namespace tenon::lfm2
