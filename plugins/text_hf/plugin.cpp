// The hf text codec's entry: its manifest and registration.
#include "tenon/plugin.h"

#include "codec.h"

TENON_PLUGIN(.id = "tenon.text_hf", .version = "0.1.0", .license = "Apache-2.0", .provides = {"text:hf;default=yes"})

TENON_REGISTER(tenon::Registrar& registrar) {
  using namespace tenon;
  struct NoOptions {};
  registrar.text_codec(
      "hf", "tokenizer.json and the chat template of a Hugging Face checkpoint, as transformers reads them.", option_table<NoOptions>({}),
      [](const TextFiles& files, const Value&) -> std::unique_ptr<TextCodec> { return std::make_unique<text_hf::HfCodec>(files); });
}
