#include "cli/plugin_options.h"

#include "base/text.h"

namespace tenon::host {

namespace {

template <class Interface>
ProviderOptions take(Registry& registry, const std::string& kind, const Provider<Interface>& provider) {
  return {kind, provider.name, provider.summary, registry.plugin_of(kind, provider.name), provider.options};
}

}  // namespace

const std::vector<std::string>& provider_kinds() {
  static const auto* const kinds = new std::vector<std::string>{"quantizer", "architecture", "patch", "adapter", "text", "objective"};
  return *kinds;
}

ProviderOptions provider_options(Registry& registry, const std::string& kind, const std::string& name) {
  if (kind == "quantizer") return take(registry, kind, registry.quantizer(name));
  if (kind == "architecture") return take(registry, kind, registry.architecture(name));
  if (kind == "patch") return take(registry, kind, registry.patch(name));
  if (kind == "adapter") return take(registry, kind, registry.adapter(name));
  if (kind == "text") return take(registry, kind, registry.text_codec(name));
  if (kind == "objective") return take(registry, kind, registry.objective(name));
  fail(ErrorCode::Usage, "there is no kind '", kind, "', the kinds are: ", join(provider_kinds(), ", "));
}

std::vector<ProviderOptions> providers_meant(Registry& registry, const std::string& name) {
  std::vector<ProviderOptions> found;
  if (const size_t colon = name.find(':'); colon != std::string::npos)
    return {provider_options(registry, name.substr(0, colon), name.substr(colon + 1))};
  std::vector<std::string> all;
  for (const auto& kind : provider_kinds())
    for (const auto& provider : registry.names(kind)) {
      all.push_back(provider);
      if (provider == name || registry.plugin_of(kind, provider) == name) found.push_back(provider_options(registry, kind, provider));
    }
  if (found.empty())
    fail(ErrorCode::Plugin, "no plugin provides '", name, "'", did_you_mean(name, all), "\n  host plugins why ", name,
         " tells about files that are not used");
  return found;
}

}  // namespace tenon::host
