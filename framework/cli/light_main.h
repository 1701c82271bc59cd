#pragma once
// What `host` answers by itself.
#include <optional>

#include "cli/args.h"

namespace tenon::host {

// The exit status when the command is done: help, version, plugins list and why. nullopt: it needs LibTorch, and a recipe that it names has been checked.
std::optional<int> run_light(const Args& args);

}  // namespace tenon::host
