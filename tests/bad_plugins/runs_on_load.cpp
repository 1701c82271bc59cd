// Leaves a file when it is loaded, before anyone calls it: to show that listing loads nothing.
#include <cstdlib>
#include <fstream>

#include "tenon/plugin.h"

namespace {
const bool left_a_trace = [] {
  if (const char* file = std::getenv("TENON_TEST_TRACE")) std::ofstream(file) << "loaded";
  return true;
}();
}  // namespace

TENON_PLUGIN(.id = "org.example.runs_on_load", .version = "1.0", .provides = {"patch:runs_on_load"})

TENON_REGISTER(tenon::Registrar& registrar) {
  registrar.patches.push_back(
      {"runs_on_load", left_a_trace ? "Was loaded." : "", {}, [](const tenon::Value&) { return std::make_unique<tenon::Patch>(); }});
}
