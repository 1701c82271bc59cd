#pragma once
// JSON text to tenon::Value and back. The parser (nlohmann's) is used through its event interface: depth and size are bounded, duplicate keys
// are errors, order is kept.
#include <filesystem>
#include <string>
#include <string_view>

#include "tenon/value.h"

namespace tenon::host {

struct JsonLimits {
  int max_depth = 64;
  size_t max_values = 20'000'000;
};

// Error(Data) as "origin:line:column: what was found".
Value parse_json(std::string_view text, const std::string& origin, const JsonLimits& limits = {});
Value read_json_file(const std::filesystem::path& file, const JsonLimits& limits = {});

// indent < 0: one line. UTF-8 stays as it is; invalid bytes become U+FFFD. Floats print shortest round-trip; NaN and infinities as null.
std::string to_json(const Value& value, int indent = -1);

}  // namespace tenon::host
