#include "tenon/plugin.h"

#include "lfm2_vl.h"
#include "llava.h"
#include "mllama.h"
#include "qwen_vl.h"
#include "tenon/examples.h"
#include "tenon/sdk_hash.h"
#include "voxtral.h"

TENON_PLUGIN(.id = "tenon.arch_vlm", .version = "0.1.0", .license = "Apache-2.0",
             .provides = {"architecture:llava;modality=image,text", "architecture:llava_next;modality=image,text",
                          "architecture:qwen2_vl;modality=image,video,text", "architecture:qwen2_5_vl;modality=image,video,text",
                          "architecture:lfm2_vl;modality=image,text", "architecture:mllama;modality=image,text",
                          "architecture:voxtral;modality=audio,text"})

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
   "image_token_id": 90, "video_token_id": 91, "tie_word_embeddings": true}],
  "architecture:voxtral": [
  {"audio_config": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_mel_bins": 8, "max_source_positions": 6},
   "text_config": {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
                   "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 64},
   "audio_token_id": 24}],
  "architecture:lfm2_vl": [
  {"vision_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4, "num_patches": 9},
   "text_config": {"hidden_size": 32, "intermediate_size": 48, "block_multiple_of": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
                   "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 64, "full_attn_idxs": [1]},
   "image_token_id": 90, "projector_hidden_size": 20}],
  "architecture:mllama": [
  {"vision_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_global_layers": 2, "attention_heads": 2, "image_size": 28,
                     "patch_size": 14, "intermediate_layers_indices": [0, 2], "vision_output_dim": 48},
   "text_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
                   "vocab_size": 96, "max_position_embeddings": 64, "cross_attention_layers": [1, 3]},
   "image_token_index": 96}]})")

TENON_REGISTER(tenon::Registrar& registrar) {
  registrar.architecture(tenon::vlm::Lfm2VlArchitecture::kModelType, tenon::vlm::Lfm2VlArchitecture::kSummary,
                         [] { return std::make_unique<tenon::vlm::Lfm2VlArchitecture>(); });
  registrar.architecture("mllama", "Llama 3.2 Vision: pictures in tiles, which some layers of a llama look at.",
                         [] { return std::make_unique<tenon::vlm::MllamaArchitecture>(); });
  for (const tenon::vlm::LlavaFamily* family : {&tenon::vlm::kLlava, &tenon::vlm::kLlavaNext})
    registrar.architecture(family->model_type, family->summary,
                           [family] { return std::make_unique<tenon::vlm::LlavaArchitecture>(*family); });
  for (const tenon::vlm::QwenFamily* family : {&tenon::vlm::kQwen2Vl, &tenon::vlm::kQwen25Vl})
    registrar.architecture(family->model_type, family->summary,
                           [family] { return std::make_unique<tenon::vlm::QwenVlArchitecture>(*family); });
  registrar.architecture("voxtral", "Voxtral: a Whisper encoder before a text model.",
                         [] { return std::make_unique<tenon::vlm::VoxtralArchitecture>(); });
}
