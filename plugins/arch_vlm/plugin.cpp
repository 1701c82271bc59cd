#include "tenon/plugin.h"

#include "llava.h"
#include "qwen_vl.h"
#include "tenon/examples.h"
#include "tenon/sdk_hash.h"

TENON_PLUGIN(.id = "tenon.arch_vlm", .version = "0.1.0", .license = "Apache-2.0",
             .provides = {"architecture:llava;modality=image,text", "architecture:llava_next;modality=image,text",
                          "architecture:qwen2_vl;modality=image,video,text", "architecture:qwen2_5_vl;modality=image,video,text"})

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
   "image_token_index": 90, "vision_feature_layer": [-1, 0], "vision_feature_select_strategy": "full", "vocab_size": 96}],
  "architecture:llava_next": [
  {"vision_config": {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
                     "image_size": 28, "patch_size": 14},
   "text_config": {"model_type": "mistral", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                   "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 64},
   "image_token_index": 90, "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]}],
  "architecture:qwen2_vl": [
  {"vision_config": {"embed_dim": 16, "hidden_size": 32, "depth": 2, "num_heads": 2, "patch_size": 4}, "hidden_size": 32, "intermediate_size": 48,
   "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 64, "image_token_id": 90,
   "video_token_id": 91, "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}}],
  "architecture:qwen2_5_vl": [
  {"vision_config": {"hidden_size": 16, "intermediate_size": 20, "out_hidden_size": 32, "depth": 2, "num_heads": 2, "patch_size": 4, "window_size": 16,
                     "fullatt_block_indexes": [1]},
   "text_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                   "vocab_size": 96, "max_position_embeddings": 64, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
   "image_token_id": 90, "video_token_id": 91, "tie_word_embeddings": true}]})")

TENON_REGISTER(tenon::Registrar& registrar) {
  for (const tenon::vlm::LlavaFamily* family : {&tenon::vlm::kLlava, &tenon::vlm::kLlavaNext})
    registrar.architecture(family->model_type, family->summary,
                           [family] { return std::make_unique<tenon::vlm::LlavaArchitecture>(*family); });
  for (const tenon::vlm::QwenFamily* family : {&tenon::vlm::kQwen2Vl, &tenon::vlm::kQwen25Vl})
    registrar.architecture(family->model_type, family->summary,
                           [family] { return std::make_unique<tenon::vlm::QwenVlArchitecture>(*family); });
}
