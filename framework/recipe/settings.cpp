#include "recipe/settings.h"

#include <algorithm>

#include "base/text.h"
#include "recipe/toml.h"

namespace tenon::host {

namespace {

// Splits "a.\"b.c\".d=value" at the first '=' outside quotes; npos when there is none.
size_t find_equals(std::string_view text) {
  char quote = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (quote)
      quote = text[i] == quote ? 0 : quote;
    else if (text[i] == '"' || text[i] == '\'')
      quote = text[i];
    else if (text[i] == '=')
      return i;
  }
  return std::string_view::npos;
}

std::string_view trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t"), end = text.find_last_not_of(" \t");
  return begin == std::string_view::npos ? "" : text.substr(begin, end - begin + 1);
}

std::vector<std::string> split_key(std::string_view key) {
  std::vector<std::string> parts(1);
  char quote = 0;
  for (const char c : key) {
    if (quote)
      c == quote ? void(quote = 0) : parts.back().push_back(c);
    else if (c == '"' || c == '\'')
      quote = c;
    else if (c == '.')
      parts.emplace_back();
    else
      parts.back().push_back(c);
  }
  return parts;
}

bool is_index(const std::string& part) {
  return !part.empty() && part.size() < 7 && std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isdigit(c); });
}

void put_at(Value& value, Value::Place place) {
  value.place = place;
  if (value.is_list())
    for (auto& item : value.as_list()) put_at(item, place);
  if (value.is_table())
    for (auto& entry : value.as_table()) put_at(entry.second, place);
}

}  // namespace

std::string setting_key(std::string_view text) { return std::string(trim(text.substr(0, find_equals(text)))); }

Setting parse_setting(std::string_view text) {
  const size_t equals = find_equals(text);
  if (equals == std::string_view::npos || trim(text.substr(0, equals)).empty())
    fail(ErrorCode::Usage, "--set takes key=value, as in --set train.learning_rate=1e-4, found '", text, "'");
  Setting setting;
  setting.path = split_key(trim(text.substr(0, equals)));
  const std::string_view value = text.substr(equals + 1);
  setting.value = parse_toml_value(value).value_or(Value(std::string(value)));
  return setting;
}

Value::Place place_of_setting(size_t index) { return {0, static_cast<uint32_t>(index) + 1}; }

std::string apply_setting(const Setting& setting, Value::Place place, Value& recipe) {
  if (setting.path.size() > 32) return "a key of more than 32 parts";
  Value* at = &recipe;
  for (size_t i = 0; i < setting.path.size(); ++i) {
    const std::string& part = setting.path[i];
    const bool is_last = i + 1 == setting.path.size();
    const std::string so_far = join({setting.path.begin(), setting.path.begin() + static_cast<std::ptrdiff_t>(i)}, ".");
    if (at->is_list()) {
      auto& items = at->as_list();
      if (!is_index(part))
        return concat("'", so_far, "' is a list of ", items.size(), ": write ", so_far, ".0", is_last ? "." + part : "." + part + " ...");
      const size_t index = std::stoul(part);
      if (index >= items.size())
        return concat("'", so_far, "' has ", items.size(), items.size() == 1 ? " entry" : " entries", ", counted from 0");
      at = &items[index];
    } else if (at->is_table()) {
      // [adapter] written once is its own number 0.
      if (is_index(part) && i == 1 && !at->find(part)) {
        if (part != "0") return concat("'", so_far, "' has 1 entry, counted from 0");
        if (is_last) return concat("'", so_far, ".0' is a table: name a key of it");
        continue;
      }
      if (!at->find(part)) at->set(part, is_last ? Value() : Value::table());
      at = at->find(part);
      if (at->place.line == 0) at->place = place;
    } else {
      return concat("'", so_far, "' is no table");
    }
  }
  *at = setting.value;
  put_at(*at, place);
  return "";
}

}  // namespace tenon::host
