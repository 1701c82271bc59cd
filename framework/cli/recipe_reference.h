#pragma once
// The recipe reference, docs/recipe.md, from the tables that the host itself reads.
#include <string>

#include "tenon/options.h"

namespace tenon::host {

// The page's head and the host's own tables; plugins follow.
std::string schema_markdown();

// A table of an option table's rows, or "No options.".
std::string options_markdown(const OptionTable& table);

}  // namespace tenon::host
