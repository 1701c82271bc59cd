#pragma once
// What toml++ 3.3 must not see: it would end in undefined behaviour or at the end of the stack, not in an error (found by fuzzing).
#include <string_view>

#include "tenon/value.h"

namespace tenon::host {

struct TomlTrouble {
  Value::Place place;
  std::string text;  // "" when there is none
};

// Keys of very many parts ("a.a.a. ...", tables whose destruction recurses as deep), and characters outside ASCII where neither a string nor a comment is.
TomlTrouble find_toml_trouble(std::string_view text);

}  // namespace tenon::host
