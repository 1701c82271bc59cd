#pragma once
// `--override kind:name=id`: which of two plugins with one name is meant. The command line alone may say so; a recipe is shared data.
#include <string>
#include <vector>

#include "plugins/discovery.h"

namespace tenon::host {

struct Override {
  std::string kind, name, id;
  std::string text() const;  // "quantizer:mine=org.example.mine"
};

// Error(Usage) for what does not read so, for an unknown kind, and for one name given to two plugins.
std::vector<Override> read_overrides(const std::vector<std::string>& texts);

// Marks the rows of all other plugins that have the name. Error(Plugin) when no plugin of that id is usable, or it does not provide the name.
void apply_override(Discovery& found, const Override& wish);

}  // namespace tenon::host
