#include "tenon/json.h"

#include "base/json.h"

namespace tenon {

Value parse_json(std::string_view text, const std::string& origin) { return host::parse_json(text, origin); }
std::string to_json(const Value& value) { return host::to_json(value); }

}  // namespace tenon
