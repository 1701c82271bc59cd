#pragma once
// The command line as read: plain values, handed to libtenon.so as they are. Only `host` itself, which reads it, links Boost.Program_options.
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "plugins/discovery.h"

namespace tenon::host {

struct Verb;

using FlagValue = std::variant<bool, int64_t, double, std::string, std::vector<std::string>>;

struct Args {
  const Verb* verb = nullptr;
  std::filesystem::path recipe;       // of verbs that take one
  std::vector<std::string> words;     // what stands behind the verb, without the recipe
  std::vector<std::string> settings;  // --set
  SearchPath search;                  // --plugin, --plugin-dir, --no-plugins
  bool json = false, help = false, debug = false;
  std::map<std::string, FlagValue> values;  // the flags that were given

  // Of a flag declared with that type; nullopt when it is not given.
  template <class T>
  std::optional<T> get(const std::string& flag) const {
    const auto it = values.find(flag);
    return it == values.end() ? std::nullopt : std::optional<T>(std::get<T>(it->second));
  }
  bool on(const std::string& flag) const { return get<bool>(flag).value_or(false); }
};

// Error(Usage): unknown verbs and flags with suggestions, missing values, a missing recipe, too many words. A verb that is absent (`host`, `host --help`) gives verb == null.
Args parse_args(int argc, const char* const* argv);

}  // namespace tenon::host
