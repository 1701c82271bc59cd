// It registers a provider that the manifest does not name.
#include "tenon/plugin.h"

TENON_PLUGIN(.id = "org.example.registers_more", .version = "0.1.0", .provides = {"patch:registers_more"})

TENON_REGISTER(tenon::Registrar& registrar) {
  for (const char* name : {"registers_more", "surprise"})
    registrar.patches.push_back({name, "", {}, [](const tenon::Value&) { return std::make_unique<tenon::Patch>(); }});
}
