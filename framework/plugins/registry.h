#pragma once
// Plugins by what they provide. Discovery reads manifests; only what a recipe needs is loaded, once, for the life of the process.
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/options.h"
#include "plugins/breadcrumb.h"
#include "plugins/discovery.h"
#include "tenon/plugin.h"

namespace tenon::host {

// `Kind` below is one of the interfaces with a Provider. Thread-safe.
class Registry {
 public:
  // Error(Plugin) when a file that was asked for by name (--plugin) cannot be used.
  explicit Registry(Discovery discovery);
  ~Registry();
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;

  // Finds, loads if needed and returns the provider. Error(Plugin): unknown name (nearest names, and rejected plugins that
  // provide it, with their reasons), refused plugin, failed registration.
  const Provider<Quantizer>& quantizer(const std::string& name);
  const Provider<Architecture>& architecture(const std::string& model_type);  // '-' and '_' alike
  const Provider<Patch>& patch(const std::string& name);
  const Provider<Adapter>& adapter(const std::string& name);
  const Provider<Objective>& objective(const std::string& name);   // "": the one whose manifest row says default=yes
  const Provider<TextCodec>& text_codec(const std::string& name);  // "" likewise; the manifest's kind is "text"

  // A plugin that is linked into this program: it takes part like a bundled one that comes first. Before anything is asked for.
  void add_builtin(const Manifest& manifest, void (*entry)(Registrar*));

  // The name of the provider whose row has default=yes. Error(Plugin) when there is none.
  std::string default_name(const std::string& kind) const;
  // The plugin's id, for call_plugin; "" for an unknown name.
  std::string plugin_of(const std::string& kind, const std::string& name) const;
  // Names of a kind in the manifests of loadable plugins.
  std::vector<std::string> names(const std::string& kind) const;
  // Names of providers whose manifest row of that kind has key=value among its attributes, such as quantizer, method, "bitsandbytes".
  std::vector<std::string> names_with(const std::string& kind, const std::string& key, const std::string& value) const;
  // "adapter x" for the first provider other than `owner` ("quantizer y") that has an option of that name, "" when none. Loads plugins: for error texts only.
  std::string owner_of_option(const std::string& option, const std::string& owner);
  // {id, version, sha256 of the file} of every plugin loaded so far: run.json.
  Value loaded() const;
  const Discovery& discovery() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tenon::host
