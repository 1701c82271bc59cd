#pragma once
// Plugins that are linked into libtenon.so: the list that CMake writes from TENON_STATIC_PLUGINS (cmake/TenonPlugin.cmake).
#include <vector>

#include "tenon/manifest.h"
#include "tenon/stable/abi.h"

namespace tenon {
struct Registrar;
}

namespace tenon::host {

struct StaticPlugin {
  const Manifest* manifest;
  void (*entry)(Registrar*);                    // native tier; null in the stable tier
  tenon_plugin_entry_v1_function stable_entry;  // stable tier; null in the native tier
  const char* (*examples)();                    // tenon/examples.h; null without
};

const std::vector<StaticPlugin>& static_plugins();

}  // namespace tenon::host
