// The lora adapter's entry: its manifest and registration.
#include "tenon/plugin.h"

#include "lora.h"

TENON_PLUGIN(.id = "tenon.adapter_lora", .version = "0.1.0", .license = "Apache-2.0",
             .provides = {"adapter:lora;format=peft;serves=new_tokens;told=stored_tensors"})

TENON_REGISTER(tenon::Registrar& registrar) {
  using namespace tenon::lora;
  registrar.adapter<LoraOptions, Lora>("lora", "Low-rank updates beside frozen weights (LoRA, rsLoRA, DoRA), in PEFT's file format.",
                                       lora_options());
}
