#include "tenon/plugin.h"

#include "architecture.h"
#include "tenon/examples.h"
#include "tenon/sdk_hash.h"

TENON_PLUGIN(.id = "tenon.arch_lfm2", .version = "0.1.0", .license = "Apache-2.0", .provides = {"architecture:lfm2;modality=text"})

TENON_EXAMPLES(R"({"architecture:lfm2": [
  {"hidden_size": 32, "intermediate_size": 48, "block_multiple_of": 16, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
   "vocab_size": 96, "max_position_embeddings": 64, "full_attn_idxs": [1, 3]},
  {"hidden_size": 24, "block_ff_dim": 40, "block_auto_adjust_ff_dim": false, "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 1,
   "vocab_size": 90, "max_position_embeddings": 64, "layer_types": ["conv", "full_attention", "conv"], "conv_L_cache": 4, "conv_bias": true,
   "tie_embedding": false}]})")

TENON_REGISTER(tenon::Registrar& registrar) {
  registrar.architecture("lfm2", "LFM2: short convolutions, and attention in some layers.",
                         [] { return std::make_unique<tenon::lfm2::Lfm2Architecture>(); });
}
