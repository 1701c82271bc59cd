#pragma once
// JSON for plugins: bounded depth, duplicate keys refused, key order kept.
#include <string>
#include <string_view>

#include "tenon/export.h"
#include "tenon/value.h"

namespace tenon {

// Error(Data) as "origin:line:column: what was found".
TENON_API Value parse_json(std::string_view text, const std::string& origin);
// One line; floats in their shortest exact form.
TENON_API std::string to_json(const Value& value);

}  // namespace tenon
