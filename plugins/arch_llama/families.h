#pragma once
// What differs between the families of this plugin, and config.json read into numbers.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tenon/nn/rotary.h"
#include "tenon/value.h"

namespace tenon::llama {

enum class Bias { Never, Always, AttentionBiasKey };
enum class Window { None, EveryLayer, ByLayer };
enum class HeadDim { Derived, Given };

// One row a family; the defaults are those of transformers' config classes. A new family is a new row, and a new column for what no other has.
struct Family {
  const char* model_type;
  const char* summary;
  int64_t vocab_size, intermediate_size, max_position_embeddings;
  int64_t kv_heads;  // 0: as many as heads
  HeadDim head_dim;  // derived: hidden_size / heads unless head_dim says so; given: 128 unless head_dim says so
  Bias qkv_bias, out_bias;
  bool mlp_bias_key;  // reads mlp_bias
  bool qk_norm;       // a norm over each head of q and k
  Window window;
};

const std::vector<Family>& families();
const Family& family_of(const std::string& model_type);

struct DecoderConfig {
  const Family* family = nullptr;
  int64_t vocab_size = 0, hidden = 0, intermediate = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, max_positions = 0;
  double eps = 1e-6;
  bool qkv_bias = false, out_bias = false, mlp_bias = false, tied = false;
  std::string activation;
  std::vector<int64_t> windows;  // by layer; 0: none
  nn::RotarySpec rotary;
  at::ScalarType dtype = at::kFloat;
};

// Error(Data) naming everything that is wrong or not supported.
DecoderConfig read_config(const Family& family, const Value& config);

}  // namespace tenon::llama
