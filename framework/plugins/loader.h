#pragma once
// From a plugin's file to what it has registered. A library stays for the life of the process: autograd graphs and threads outlive its objects.
#include <functional>
#include <memory>

#include "plugins/discovery.h"
#include "tenon/plugin.h"

namespace tenon::host {

// Fills the registrar with what a library provides; may throw.
using PluginEntry = std::function<void(Registrar*)>;

// Opens the library and returns its entry, of either tier; of a built-in plugin finds it in libtenon.so. Error(Plugin) with the loader's own words, or when the file is not what discovery read.
PluginEntry open_plugin(const PluginFile& file);

// Runs the entry into a registrar of its own: all or nothing. What is registered must be what the manifest promises. Factories come back wrapped:
// they run as call_plugin, and what they make is never null.
std::unique_ptr<Registrar> register_plugin(const PluginFile& file, const PluginEntry& entry);

}  // namespace tenon::host
