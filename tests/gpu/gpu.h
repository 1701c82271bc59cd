#pragma once
// The first GPU of this machine, and the bundled quantizers, for the tests and the benchmark that need one.
#include <ATen/core/Tensor.h>

#include <dlfcn.h>

#include <memory>
#include <optional>
#include <string>

#include "model/devices.h"
#include "plugins/registry.h"
#include "tenon/quantizer.h"

namespace tenon::testing {

// Why there is none in `problem`.
inline std::optional<at::Device> first_gpu(std::string& problem) {
  static std::string why;
  static const auto devices = host::cuda_devices(&why);
  problem = why;
  return devices.empty() ? std::nullopt : std::optional(at::Device(devices.front().name));
}

inline std::unique_ptr<Quantizer> bundled_quantizer(const std::string& name, const Value& options) {
  static auto* const registry = new host::Registry(host::discover_plugins({.plugin_dirs = {}, .plugin_files = {}, .bundled_only = true}));
  return registry->quantizer(name).make(options);
}

}  // namespace tenon::testing
