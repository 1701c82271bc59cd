#pragma once
// What toml++ 3.3 must not see, because it would not answer with an error.
#include <string_view>

#include "tenon/value.h"

namespace tenon::host {

struct TomlTrouble {
  Value::Place place;
  std::string text;  // "" when there is none
};

// Keys of very many parts: "a.a.a. ..." makes tables whose destruction recurses as deep, to the end of the stack (found by fuzzing). Characters outside
// ASCII where neither a string nor a comment is: some would count as spaces.
TomlTrouble find_toml_trouble(std::string_view text);

}  // namespace tenon::host
