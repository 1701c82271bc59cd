#include "base/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/text.h"

namespace tenon::host {

namespace {

// Shortest exact form that TOML reads back as a float.
std::string float_text(double number) {
  std::string text = fmt::format("{}", number);
  return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
}
std::string bound_text(double bound) { return fmt::format("{}", bound); }

std::string string_text(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    else
      out += c;
  }
  return out + "\"";
}

bool is_bare_key(const std::string& key) {
  return !key.empty() && std::all_of(key.begin(), key.end(), [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-'; });
}

// The type names of OptionCodec; others ("path", "bytes") are the business of the row's own check.
bool has_type(const std::string& type, const Value& value) {
  if (type == "bool") return value.is_bool();
  if (type == "int") return value.is_int();
  if (type == "float") return value.is_number();
  if (type == "string" || type == "path") return value.is_string();
  if (type == "table") return value.is_table();
  if (type == "list of strings" || type == "list of paths")
    return value.is_list() && std::all_of(value.as_list().begin(), value.as_list().end(), [](const Value& v) { return v.is_string(); });
  return true;
}

std::string found_text(const Value& value) {
  if (!value.is_list()) return value.type_name();
  for (const auto& item : value.as_list())
    if (!item.is_string()) return fmt::format("list with {} in it", item.type_name());
  return "list";
}

std::string range_text(double min, double max) {
  if (std::isinf(min) && std::isinf(max)) return "";
  if (std::isinf(max)) return "at least " + bound_text(min);
  if (std::isinf(min)) return "at most " + bound_text(max);
  return bound_text(min) + " to " + bound_text(max);
}

std::string choices_text(const std::vector<Value>& choices, const char* separator) {
  std::vector<std::string> texts;
  for (const auto& choice : choices) texts.push_back(choice.is_string() ? choice.as_string() : toml_text(choice));
  return join(texts, separator);
}

}  // namespace

std::string toml_text(const Value& value) {
  if (value.is_bool()) return value.as_bool() ? "true" : "false";
  if (value.is_int()) return std::to_string(value.as_int());
  if (value.is_float()) return float_text(value.as_float());
  if (value.is_string()) return string_text(value.as_string());
  std::vector<std::string> parts;
  if (value.is_list()) {
    for (const auto& item : value.as_list()) parts.push_back(toml_text(item));
    return "[" + join(parts, ", ") + "]";
  }
  if (value.is_table()) {
    for (const auto& [key, item] : value.as_table()) parts.push_back((is_bare_key(key) ? key : string_text(key)) + " = " + toml_text(item));
    return parts.empty() ? "{}" : "{ " + join(parts, ", ") + " }";
  }
  return "";
}

std::string constraint_text(const OptionRow& row) {
  if (!row.constraint.choices.empty()) return choices_text(row.constraint.choices, " | ");
  return range_text(row.constraint.min, row.constraint.max);
}

std::string check_value(const OptionRow& row, const Value& value) {
  if (!has_type(row.type, value)) return fmt::format("expected {}, found {}", row.type, found_text(value));
  const Constraint& constraint = row.constraint;
  if (!constraint.choices.empty() && std::find(constraint.choices.begin(), constraint.choices.end(), value) == constraint.choices.end()) {
    std::vector<std::string> names;
    for (const auto& choice : constraint.choices)
      if (choice.is_string()) names.push_back(choice.as_string());
    const std::string hint = value.is_string() ? did_you_mean(value.as_string(), names) : "";
    return fmt::format("expected one of {}, found {}{}", choices_text(constraint.choices, ", "), toml_text(value), hint);
  }
  if (value.is_number()) {
    const double number = value.as_float();
    if (!(number >= constraint.min && number <= constraint.max) || std::isinf(number)) {
      const std::string range = range_text(constraint.min, constraint.max);
      return fmt::format("expected {}, found {}", range.empty() ? "a finite number" : range, toml_text(value));
    }
  }
  return constraint.check ? constraint.check(value) : "";
}

std::vector<std::string> check_options(const OptionTable& table, const Value& values, const std::string& owner,
                                       const std::function<std::string(const Value&)>& locate,
                                       const std::function<std::string(const std::string&)>& others) {
  std::vector<std::string> problems;
  if (values.is_null()) return problems;
  std::vector<std::string> names;
  for (const auto& row : table.rows) names.push_back(row.name);
  for (const auto& [key, value] : values.as_table()) {
    const std::string place = locate(value);
    auto report = [&](const std::string& text) { problems.push_back(place.empty() ? text : place + ": " + text); };
    const auto row = std::find_if(table.rows.begin(), table.rows.end(), [&](const OptionRow& r) { return r.name == key; });
    if (row != table.rows.end()) {
      if (const std::string wrong = check_value(*row, value); !wrong.empty())
        report(fmt::format("option '{}' of {}: {}", key, owner, wrong));
      continue;
    }
    const auto retired = std::find_if(table.retired.begin(), table.retired.end(), [&](const auto& entry) { return entry.first == key; });
    if (retired != table.retired.end()) {
      report(fmt::format("option '{}' of {}: {}", key, owner, retired->second));
      continue;
    }
    const std::string hint = did_you_mean(key, names);
    // A near name is the likelier slip; only without one is another plugin's option worth the search.
    const std::string other = hint.empty() && others ? others(key) : "";
    if (!other.empty())
      report(fmt::format("'{}' is an option of {}, not of {}", key, other, owner));
    else if (!hint.empty())
      report(fmt::format("unknown option '{}' for {}{}", key, owner, hint));
    else
      report(
          fmt::format("unknown option '{}' for {}{}", key, owner, names.empty() ? ", which has none" : ", it has: " + join(names, ", ")));
  }
  return problems;
}

}  // namespace tenon::host
