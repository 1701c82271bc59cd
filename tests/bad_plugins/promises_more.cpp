// The manifest names a provider that is never registered.
#include "tenon/plugin.h"

TENON_PLUGIN(.id = "org.example.promises_more", .version = "0.1.0", .provides = {"patch:promises_more", "patch:promised"})

TENON_REGISTER(tenon::Registrar& registrar) {
  registrar.patches.push_back({"promises_more", "", {}, [](const tenon::Value&) { return std::make_unique<tenon::Patch>(); }});
}
