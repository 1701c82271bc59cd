// abi_probe FILE QUANTIZER [OPTIONS]: loads a plugin as the host does and prints what the probe's steps gave, as JSON. For ./dev abi.
#include <cstdio>
#include <exception>

#include "abi/probe.h"
#include "plugins/registry.h"
#include "tenon/json.h"

int main(int argc, char** argv) {
  using namespace tenon;
  if (argc < 3) {
    std::fprintf(stderr, "usage: abi_probe FILE QUANTIZER [OPTIONS as JSON]\n");
    return 2;
  }
  try {
    host::Registry registry(host::discover_plugins({.plugin_dirs = {}, .plugin_files = {argv[1]}, .bundled_only = false}));
    Value results = testing::probe(registry.quantizer(argv[2]), argc > 3 ? parse_json(argv[3], "OPTIONS") : Value::table());
    std::printf("%s\n", to_json(results).c_str());
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 4;
  }
}
