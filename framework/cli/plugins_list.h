#pragma once
// `host plugins list` and `why`: from manifests alone, no plugin runs.
#include <string>

#include "plugins/discovery.h"
#include "tenon/value.h"

namespace tenon::host {

struct ListFilter {
  std::string kind, modality, method;  // empty: all
  bool matches(const Provides& provides) const;
};

std::string list_text(const Discovery& found, const ListFilter& filter);
// [{id, version, license, path, origin, state, reasons, provides: [{kind, name, attributes}]}]
Value list_value(const Discovery& found, const ListFilter& filter);

// Files that a provider's name, kind:name, a plugin's id or a file's name or path means; a file outside the search is judged as it would be behind
// --plugin. Never empty: Error(Plugin) with the nearest names and the folders that were searched.
std::vector<PluginFile> find_meant(const Discovery& found, const std::string& name, const SearchPath& search);

// Everything there is to say about a provider, plugin id or file. Error(Plugin) when nothing has that name.
std::string why_text(const Discovery& found, const std::string& name, const SearchPath& search);
Value why_value(const Discovery& found, const std::string& name, const SearchPath& search);

// Error(Usage) naming the kinds.
void check_kind(const std::string& kind);

}  // namespace tenon::host
