#include "tenon/plugin.h"

#include "architecture.h"
#include "tenon/sdk_hash.h"

TENON_PLUGIN(.id = "tenon.arch_llama", .version = "0.1.0", .license = "Apache-2.0",
             .provides = {"architecture:llama;modality=text", "architecture:mistral;modality=text", "architecture:qwen2;modality=text",
                          "architecture:qwen3;modality=text", "architecture:gemma2;modality=text", "architecture:phi3;modality=text",
                          "architecture:smollm3;modality=text", "architecture:mixtral;modality=text",
                          "architecture:qwen3_moe;modality=text"})

TENON_REGISTER(tenon::Registrar& registrar) {
  for (const auto& family : tenon::llama::families())
    registrar.architecture(family.model_type, family.summary,
                           [&family] { return std::make_unique<tenon::llama::DecoderArchitecture>(family); });
}
