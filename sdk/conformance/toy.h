#pragma once
// A small decoder that goes through every seam a language model has: what patches and adapters are tried on, whatever architectures are here.
#include <memory>

#include "check.h"
#include "kit_parts.h"
#include "tenon/nn/kv_cache.h"
#include "tenon/nn/rotary.h"

namespace tenon::conformance {

// Hugging Face's usual keys, all sizes small. `model_type` is what the architecture is asked for.
Value small_config(const std::string& model_type);

// Reads hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, vocab_size, max_position_embeddings and
// what nn::read_rotary knows.
class ToyArchitecture final : public Architecture {
 public:
  Blueprint blueprint(const Value& config) const override;
  std::unique_ptr<Model> build(const Value& config, Parts& parts) const override;
};

// A model with its weights in it.
struct ToyModel {
  std::unique_ptr<KitParts> parts;
  std::unique_ptr<Model> model;  // goes first
};
ToyModel make_model(const Architecture& architecture, const Value& config, uint64_t seed, bool trainable);

}  // namespace tenon::conformance
