#pragma once
// What toml++ 3.3 must not see: it would end at the end of the stack, not in an error (found by fuzzing), or read what no TOML is.
#include <string_view>

#include "tenon/value.h"

namespace tenon::host {

struct TomlTrouble {
  Value::Place place;
  std::string text;  // "" when there is none
};

// Keys of very many parts ("a.a.a. ...", tables whose destruction recurses as deep), and characters outside ASCII where neither a string nor a comment is (some count as spaces there).
TomlTrouble find_toml_trouble(std::string_view text);

}  // namespace tenon::host
