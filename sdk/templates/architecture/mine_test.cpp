// The blueprint holds what config.json asks for, and a config that cannot be served is an error that names every problem.
#include <cstdio>

#include "tenon/plugin.h"

extern "C" void tenon_plugin_register(tenon::Registrar* registrar);  // what the host calls

int main() {
  tenon::Registrar registrar;
  tenon_plugin_register(&registrar);
  const auto architecture = registrar.architectures.at(0).make({});
  tenon::Value config = tenon::Value::table();
  config.set("vocab_size", 10), config.set("hidden_size", 32), config.set("num_hidden_layers", 2), config.set("num_attention_heads", 4);
  const tenon::Blueprint blueprint = architecture->blueprint(config);
  int64_t weights = 0;
  for (const auto& slot : blueprint.slots) weights += slot.numel();
  const bool counts = weights == 2 * 10 * 32 + 2 * 4 * 32 * 32 && blueprint.tensors.size() == 3;

  config.set("num_attention_heads", 5), config.set("vocab_size", 0);
  std::string said;
  try {
    architecture->blueprint(config);
  } catch (const tenon::Error& error) {
    said = error.what();
  }
  const bool names_both = said.find("vocab_size") != std::string::npos && said.find("heads") != std::string::npos;
  std::printf("%lld weights; a wrong config: %s\n", static_cast<long long>(weights), said.c_str());
  return counts && names_both ? 0 : 1;
}
