// The tekken text codec's entry: its manifest and registration.
#include "tenon/plugin.h"

#include "codec.h"
#include "sample.h"
#include "tenon/examples.h"

TENON_PLUGIN(.id = "tenon.text_tekken", .version = "0.1.0", .license = "Apache-2.0", .provides = {"text:tekken;file=tekken.json"})

static const char* examples() {
  static const std::string json = "{\"text:tekken\": " + tenon::text_tekken::sample_tekken() + "}";
  return json.c_str();
}
TENON_EXAMPLES(examples())

TENON_REGISTER(tenon::Registrar& registrar) {
  using namespace tenon;
  struct NoOptions {};
  registrar.text_codec(
      "tekken", "Mistral's tekken.json, and conversations as mistral-common writes them.", option_table<NoOptions>({}),
      [](const TextFiles& files, const Value&) -> std::unique_ptr<TextCodec> { return std::make_unique<text_tekken::TekkenCodec>(files); });
}
