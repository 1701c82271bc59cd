#pragma once
// Options of providers, whatever their kind: what `describe` and the recipe reference show.
#include <string>
#include <vector>

#include "plugins/registry.h"

namespace tenon::host {

struct ProviderOptions {
  std::string kind, name, summary, plugin;
  OptionTable options;
};

// Loads the plugin.
ProviderOptions provider_options(Registry& registry, const std::string& kind, const std::string& name);

// Every provider that `name` may mean: a provider's name, "kind:name", or a plugin's id. Error(Plugin) with the nearest names when there is none.
std::vector<ProviderOptions> providers_meant(Registry& registry, const std::string& name);

// In the order of a recipe's tables.
const std::vector<std::string>& provider_kinds();

}  // namespace tenon::host
