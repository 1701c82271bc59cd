#pragma once
// Values against option tables: the one place that says what is wrong with a key, for the host's own sections and for plugins alike.
#include <functional>
#include <string>
#include <vector>

#include "tenon/options.h"

namespace tenon::host {

// What is wrong with `value` for this row, such as "expected int, found string"; "" when nothing is.
std::string check_value(const OptionRow& row, const Value& value);

// Checks values against a plugin's table: unknown names with suggestions, types, ranges. One line per problem, "place: text" with the place made by
// `locate`. `owner` reads "quantizer mine". `others` answers which other plugin has an option of that name ("" when none).
std::vector<std::string> check_options(const OptionTable& table, const Value& values, const std::string& owner,
                                       const std::function<std::string(const Value&)>& locate,
                                       const std::function<std::string(const std::string&)>& others = nullptr);

// For describe and the recipe reference: a value as TOML, and "one of 32 64 128", "at least 1", "0 to 1" or "".
std::string toml_text(const Value& value);
std::string constraint_text(const OptionRow& row);

}  // namespace tenon::host
