#pragma once
// A stable plugin that is linked into a test, through the C table and the host's adapter: tested as it is used.
#include <memory>
#include <string>

#include "plugins/stable_quantizer.h"
#include "tenon/plugin.h"

extern "C" const tenon_plugin_v1* tenon_plugin_entry_v1(const tenon_services_v1* services, tenon_call* call);

namespace tenon::testing {

inline std::unique_ptr<Quantizer> stable_quantizer(const std::string& name, Value options = Value::table()) {
  Registrar registrar;
  host::register_stable_plugin("under test", tenon_plugin_entry_v1, registrar);
  for (const auto& provider : registrar.quantizers)
    if (provider.name == name) return provider.make(options);
  fail(ErrorCode::Plugin, "the plugin provides no quantizer '", name, "'");
}

}  // namespace tenon::testing
