// Provides what another plugin provides too.
#include "tenon/plugin.h"

TENON_PLUGIN(.id = "org.example.same_name", .version = "0.1.0", .provides = {"patch:good_patch"})

TENON_REGISTER(tenon::Registrar& registrar) {
  registrar.patches.push_back({"good_patch", "", {}, [](const tenon::Value&) { return std::make_unique<tenon::Patch>(); }});
}
