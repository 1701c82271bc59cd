#pragma once
// `--set train.learning_rate=1e-4`, `--set patch.0.factor=4`: changes to a recipe before it is checked.
#include <string>
#include <string_view>
#include <vector>

#include "tenon/value.h"

namespace tenon::host {

struct Setting {
  std::vector<std::string> path;  // {"patch", "0", "factor"}
  Value value;                    // TOML, else a bare string
};

// Error(Usage) when there is no '=' or the key is empty. Parts may be quoted: model.max_memory."cuda:0"=20GiB.
Setting parse_setting(std::string_view text);

// A setting's values stand at {0, index + 1}.
Value::Place place_of_setting(size_t index);

// Puts the value into the recipe, at `place`; missing tables are made. Returns what is wrong, or "".
std::string apply_setting(const Setting& setting, Value::Place place, Value& recipe);

// The key part of a setting, for messages: "train.learning_rate".
std::string setting_key(std::string_view text);

}  // namespace tenon::host
