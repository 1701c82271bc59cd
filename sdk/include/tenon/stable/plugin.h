#pragma once
// How a plugin of the stable tier is declared: one binary for every host of LibTorch TENON_STABLE_TORCH and newer, built with any compiler of
// C++17 or newer. One source file of the library holds
//
//   TENON_STABLE_PLUGIN(.id = "org.example.quant_mine", .version = "0.1.0", .license = "Apache-2.0", .provides = {"quantizer:mine"})
//   TENON_STABLE_REGISTER(tenon::stable::Registrar& registrar) { registrar.quantizer<MineOptions, Mine>("mine", "Mine, a test.", mine_options()); }
//
// (in C++17 without the names: TENON_STABLE_PLUGIN("org.example.quant_mine", "0.1.0", "Apache-2.0", {{"quantizer:mine"}})), and its CMakeLists.txt
//
//   tenon_add_plugin(quant_mine TIER stable SOURCES quant_mine.cpp)
//
// The manifest is data in the ELF section .tenonplugin: the host reads it without loading the library.
#include <torch/csrc/stable/version.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tenon/manifest.h"
#include "tenon/options.h"
#include "tenon/stable/call.h"
#include "tenon/stable/lowering.h"
#include "tenon/stable/ops.h"
#include "tenon/stable/quantizer.h"

#ifndef TORCH_TARGET_VERSION
#error "a stable plugin needs TORCH_TARGET_VERSION, the oldest LibTorch it is made for: tenon_add_plugin(... TIER stable) defines it"
#endif

#pragma GCC visibility push(hidden)
namespace tenon::stable {

// Collects what a plugin provides.
class Registrar {
 public:
  // Impl is constructed from const Options&; the table is of tenon/options.h.
  template <class Options, class Impl>
  void quantizer(std::string name, std::string summary, OptionTable table) {
    auto provided = std::make_unique<detail::Provided>(std::move(name), std::move(summary), std::move(table));
    tenon_quantizer_v1& plain = provided->plain;
    plain = detail::functions_of<Impl>();
    plain.name = provided->name.c_str(), plain.summary = provided->summary.c_str();
    plain.options = provided->row_pointers.data(), plain.option_count = static_cast<int64_t>(provided->row_pointers.size());
    plain.retired = provided->retired.data(), plain.retired_count = static_cast<int64_t>(provided->retired.size());
    plain.data = provided.get();
    plain.create = detail::create<Options, Impl>;
    tables_.push_back(&provided->plain);
    provided_.push_back(std::move(provided));
  }

  // What the host reads; the registrar must outlive it.
  tenon_plugin_v1 lower() const { return {sizeof(tenon_plugin_v1), TENON_SDK_MINOR, tables_.data(), static_cast<int64_t>(tables_.size())}; }

 private:
  std::vector<std::unique_ptr<detail::Provided>> provided_;
  std::vector<const tenon_quantizer_v1*> tables_;
};

namespace detail {
// `Body` is a type of each plugin's own, and so are the variables: several plugins may be linked into one library.
template <class Body>
const tenon_plugin_v1* enter(const tenon_services_v1* given, tenon_call* call, const Body& body) {
  std::memcpy(static_cast<void*>(&services), given, std::min<size_t>(given->size, sizeof services));
  // Of the library, for the life of the process.
  static auto* const registrar = new Registrar;
  static tenon_plugin_v1 plugin{};
  const int32_t code = guarded(call, [&] {
    if (plugin.size != 0) return;
    Registrar staging;
    body(staging);
    *registrar = std::move(staging);
    plugin = registrar->lower();
  });
  return code == TENON_OK ? &plugin : nullptr;
}
}  // namespace detail

}  // namespace tenon::stable
#pragma GCC visibility pop

// Of the nvcc that compiled the plugin's kernels, 13000 for 13.0: tenon_add_plugin sets it. For people to read: the host does not compare it.
#ifndef TENON_PLUGIN_CUDA
#define TENON_PLUGIN_CUDA 0
#endif

// Fills the manifest with the given initializers (see ManifestFields) plus what the build knows.
#define TENON_STABLE_PLUGIN(...)                                                                                                     \
  extern "C" {                                                                                                                       \
  extern TENON_API const ::tenon::Manifest tenon_plugin_manifest;                                                                    \
  __attribute__((section(".tenonplugin"), used, retain)) constexpr ::tenon::Manifest tenon_plugin_manifest = ::tenon::make_manifest( \
      ::tenon::ManifestFields{__VA_ARGS__}, ::tenon::Tier::Stable, TORCH_FEATURE_VERSION, /*sdk_hash=*/0, TENON_PLUGIN_CUDA);        \
  }

// The body that follows fills the registrar; it may throw.
#define TENON_STABLE_REGISTER(parameter)                                                                                                  \
  static void tenon_register_body(parameter);                                                                                             \
  extern "C" TENON_API const tenon_plugin_v1* tenon_plugin_entry_v1(const tenon_services_v1* services, tenon_call* call);                 \
  extern "C" const tenon_plugin_v1* tenon_plugin_entry_v1(const tenon_services_v1* services, tenon_call* call) {                          \
    return ::tenon::stable::detail::enter(services, call, [](::tenon::stable::Registrar& registrar) { tenon_register_body(registrar); }); \
  }                                                                                                                                       \
  static void tenon_register_body(parameter)
