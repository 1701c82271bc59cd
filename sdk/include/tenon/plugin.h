#pragma once
// How a native plugin is declared. One source file of the library holds
//
//   TENON_PLUGIN(.id = "org.example.quant_mine", .version = "0.1.0", .license = "Apache-2.0", .provides = {"quantizer:mine"})
//   TENON_REGISTER(tenon::Registrar& registrar) { registrar.quantizer<MineOptions, Mine>("mine", "Mine, a test.", mine_options()); }
//
// The manifest is data in the ELF section .tenonplugin: the host reads it without loading the library. A native plugin is tied to one
// LibTorch release, one compiler ABI and one state of these headers (sdk_hash.h, made by the build).
#include <torch/headeronly/version.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tenon/adapter.h"
#include "tenon/architecture.h"
#include "tenon/manifest.h"
#include "tenon/objective.h"
#include "tenon/options.h"
#include "tenon/patch.h"
#include "tenon/quantizer.h"
#include "tenon/sdk_hash.h"
#include "tenon/text.h"

namespace tenon {

// One named implementation. `make` receives options already checked against the table.
template <class Interface>
struct Provider {
  std::string name, summary;
  OptionTable options;
  std::function<std::unique_ptr<Interface>(const Value& options)> make;
};
template <>
struct Provider<TextCodec> {
  std::string name, summary;
  OptionTable options;
  std::function<std::unique_ptr<TextCodec>(const TextFiles& files, const Value& options)> make;
};

// Collects what a plugin provides. Nothing counts until the whole registration has succeeded.
struct Registrar {
  std::vector<Provider<Quantizer>> quantizers;
  std::vector<Provider<Architecture>> architectures;  // name = model_type
  std::vector<Provider<Patch>> patches;
  std::vector<Provider<Adapter>> adapters;
  std::vector<Provider<Objective>> objectives;
  std::vector<Provider<TextCodec>> text_codecs;

  // Impl is constructed from const Options&.
  template <class Options, class Impl>
  void quantizer(std::string name, std::string summary, OptionTable table) {
    quantizers.push_back(provider<Quantizer, Options, Impl>(name, summary, table));
  }
  template <class Options, class Impl>
  void patch(std::string name, std::string summary, OptionTable table) {
    patches.push_back(provider<Patch, Options, Impl>(name, summary, table));
  }
  template <class Options, class Impl>
  void adapter(std::string name, std::string summary, OptionTable table) {
    adapters.push_back(provider<Adapter, Options, Impl>(name, summary, table));
  }
  template <class Options, class Impl>
  void objective(std::string name, std::string summary, OptionTable table) {
    objectives.push_back(provider<Objective, Options, Impl>(name, summary, table));
  }
  // Architectures take no options: config.json and patches say what they are.
  void architecture(std::string model_type, std::string summary, std::function<std::unique_ptr<Architecture>()> make) {
    architectures.push_back({std::move(model_type), std::move(summary), {}, [make = std::move(make)](const Value&) { return make(); }});
  }
  void text_codec(std::string name, std::string summary, OptionTable table,
                  std::function<std::unique_ptr<TextCodec>(const TextFiles&, const Value&)> make) {
    text_codecs.push_back({std::move(name), std::move(summary), std::move(table), std::move(make)});
  }

 private:
  template <class Interface, class Options, class Impl>
  static Provider<Interface> provider(std::string& name, std::string& summary, OptionTable& table) {
    return {std::move(name), std::move(summary), table, [table](const Value& values) -> std::unique_ptr<Interface> {
              return std::make_unique<Impl>(read_options<Options>(table, values));
            }};
  }
};

}  // namespace tenon

// Of the nvcc that compiled the plugin's kernels: tenon_add_plugin sets it. 0: no kernels.
#ifndef TENON_PLUGIN_CUDA
#define TENON_PLUGIN_CUDA 0
#endif

// Fills the manifest with the given designated initializers (see ManifestFields) plus what the build knows.
#define TENON_PLUGIN(...)                                                                                                                  \
  extern "C" {                                                                                                                             \
  extern TENON_API const ::tenon::Manifest tenon_plugin_manifest;                                                                          \
  __attribute__((section(".tenonplugin"), used, retain)) constinit const ::tenon::Manifest tenon_plugin_manifest = ::tenon::make_manifest( \
      ::tenon::ManifestFields{__VA_ARGS__}, ::tenon::Tier::Native, TORCH_ABI_VERSION, TENON_SDK_HASH, TENON_PLUGIN_CUDA);                  \
  }

// The body that follows fills the registrar; it may throw.
#define TENON_REGISTER(parameter)                                                                           \
  static void tenon_register_body(parameter);                                                               \
  extern "C" TENON_API void tenon_plugin_register(::tenon::Registrar* registrar);                           \
  extern "C" void tenon_plugin_register(::tenon::Registrar* registrar) { tenon_register_body(*registrar); } \
  static void tenon_register_body(parameter)
