#pragma once
// TOML text to tenon::Value: file order and places kept, depth and size bounded. The parser is toml++, seen by toml.cpp alone.
#include <optional>
#include <string>
#include <string_view>

#include "tenon/value.h"

namespace tenon::host {

// Error(Recipe) as "origin:line:column: text". Dates and times are refused.
Value parse_toml(std::string_view text, const std::string& origin);

// One TOML value ("1e-4", "[1, 2]"); nullopt when the text is none.
std::optional<Value> parse_toml_value(std::string_view text);

}  // namespace tenon::host
