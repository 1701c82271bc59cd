#pragma once
// What belongs to the whole process and not to a plugin: LibTorch's modes, the locale, the environment, signal handlers.
#include <string>
#include <utility>
#include <vector>

namespace tenon::conformance {

// Name and value of each thing, in a fixed order.
struct GlobalState {
  std::vector<std::pair<std::string, std::string>> entries;
};

GlobalState read_global_state();
// "grad mode was on, is off; ...", "" when nothing changed. Environment variables by name.
std::string difference(const GlobalState& before, const GlobalState& after);

// Puts back what a check may have found changed by the one before it: modes, dtype, threads; and seeds the default generator.
void reset_torch_state();

}  // namespace tenon::conformance
