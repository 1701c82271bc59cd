#include "tenon/plugin.h"

#include "llava.h"
#include "tenon/examples.h"
#include "tenon/sdk_hash.h"

TENON_PLUGIN(.id = "tenon.arch_vlm", .version = "0.1.0", .license = "Apache-2.0", .provides = {"architecture:llava;modality=image,text"})

TENON_EXAMPLES(R"({"architecture:llava": [
  {"vision_config": {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
                     "image_size": 28, "patch_size": 14},
   "text_config": {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                   "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 64},
   "image_token_index": 90, "vision_feature_layer": -2, "vision_feature_select_strategy": "default", "projector_hidden_act": "gelu", "vocab_size": 96},
  {"vision_config": {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
                     "image_size": 28, "patch_size": 14},
   "text_config": {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                   "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 64, "tie_word_embeddings": true},
   "image_token_index": 90, "vision_feature_layer": [-1, 0], "vision_feature_select_strategy": "full", "vocab_size": 96}]})")

TENON_REGISTER(tenon::Registrar& registrar) {
  registrar.architecture("llava", "LLaVA 1.5: a CLIP or SigLIP tower before a text model.",
                         [] { return std::make_unique<tenon::vlm::LlavaArchitecture>(); });
}
