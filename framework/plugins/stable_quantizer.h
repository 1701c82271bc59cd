#pragma once
// The one door between the stable tier and the rest of the host: a C table becomes a Provider<Quantizer>. What is behind it cannot be told
// from a native quantizer.
#include <string>

#include "tenon/plugin.h"
#include "tenon/stable/abi.h"

namespace tenon::host {

// Calls the entry and fills the registrar with what the library provides. `plugin_id` is for the log. Error(Plugin) when the entry fails, or a table
// lacks what every quantizer must bring.
void register_stable_plugin(const std::string& plugin_id, tenon_plugin_entry_v1_function entry, Registrar& registrar);

}  // namespace tenon::host
