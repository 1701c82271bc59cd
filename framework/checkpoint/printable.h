#pragma once
// Names and shapes out of files, made safe and short for messages.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tenon::host {

// In single quotes; control characters as \xNN, long names cut in the middle.
std::string in_quotes(std::string_view name);
// "[64, 32]"
std::string shape_text(const std::vector<int64_t>& shape);

}  // namespace tenon::host
