#include "recipe/toml.h"

namespace tenon::host {
// toml++ asserts what hostile text can break ("[" at a line's end); with NDEBUG it would even assume it. Here it is an error like others.
struct TomlAssertion {};
// A function, because the compiler warns of a bare throw where toml++ promises none (programmer's errors, not the text's).
[[noreturn]] inline void throw_toml_assertion() { throw TomlAssertion(); }
}  // namespace tenon::host
#pragma push_macro("NDEBUG")
#undef NDEBUG
#define TOML_ASSERT(claim) ((claim) ? void(0) : ::tenon::host::throw_toml_assertion())
// Bounds toml++'s own recursion: hostile nesting must not reach the end of the stack.
#define TOML_MAX_NESTED_VALUES 32
#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>
#pragma pop_macro("NDEBUG")

#include <algorithm>

#include "recipe/toml_precheck.h"

namespace tenon::host {

namespace {

constexpr size_t kMaxBytes = 4 << 20;

Value::Place place_of(const toml::source_region& region) { return {region.begin.line, region.begin.column}; }

[[noreturn]] void fail_at(const std::string& origin, Value::Place place, const std::string& text) {
  fail(ErrorCode::Recipe, origin, ":", place.line, ":", place.column, ": ", text);
}

Value convert(const toml::node& node, const std::string& origin);

Value convert_table(const toml::table& table, const std::string& origin) {
  // toml++ sorts its keys; the file's order comes back from the places.
  std::vector<std::pair<const toml::key*, const toml::node*>> entries;
  for (const auto& [key, node] : table) entries.emplace_back(&key, &node);
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    const auto &x = a.first->source().begin, &y = b.first->source().begin;
    return x.line != y.line ? x.line < y.line : x.column < y.column;
  });
  Value::Table out;
  for (const auto& [key, node] : entries) {
    Value value = convert(*node, origin);
    value.place = place_of(key->source());
    out.emplace_back(std::string(key->str()), std::move(value));
  }
  return Value(std::move(out));
}

Value convert(const toml::node& node, const std::string& origin) {
  Value value;
  if (const auto* table = node.as_table()) {
    value = convert_table(*table, origin);
  } else if (const auto* array = node.as_array()) {
    Value::List list;
    for (const auto& item : *array) list.push_back(convert(item, origin));
    value = Value(std::move(list));
  } else if (const auto* boolean = node.as_boolean()) {
    value = Value(boolean->get());
  } else if (const auto* integer = node.as_integer()) {
    value = Value(static_cast<long long>(integer->get()));
  } else if (const auto* floating = node.as_floating_point()) {
    value = Value(floating->get());
  } else if (const auto* string = node.as_string()) {
    value = Value(string->get());
  } else {
    fail_at(origin, place_of(node.source()), "a date or time has no use in a recipe: put it in quotes");
  }
  value.place = place_of(node.source());
  return value;
}

std::string lower_case_start(std::string_view text) {
  std::string out(text);
  if (out.size() > 1 && std::isupper(static_cast<unsigned char>(out[0])) && std::islower(static_cast<unsigned char>(out[1])))
    out[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(out[0])));
  return out;
}

// The first line whose end toml++ does not survive: an assertion of its own carries no place.
uint32_t line_of_assertion(std::string_view text) {
  uint32_t line = 1;
  // Parses each beginning of the text, so large ones are not worth it.
  for (size_t end = 0; end < std::min<size_t>(text.size(), 1 << 16); ++line) {
    end = std::min(text.find('\n', end), text.size() - 1) + 1;
    try {
      (void)toml::parse(text.substr(0, end));
    } catch (const TomlAssertion&) {
      return line;
    } catch (const toml::parse_error&) {}
  }
  return line;
}

}  // namespace

Value parse_toml(std::string_view text, const std::string& origin) {
  if (text.size() > kMaxBytes)
    fail(ErrorCode::Recipe, origin, ": ", text.size(), " bytes are more than the ", kMaxBytes, " of any sensible recipe");
  if (const TomlTrouble trouble = find_toml_trouble(text); !trouble.text.empty()) fail_at(origin, trouble.place, trouble.text);
  try {
    return convert_table(toml::parse(text), origin);
  } catch (const toml::parse_error& error) {
    fail_at(origin, place_of(error.source()), lower_case_start(error.description()));
  } catch (const TomlAssertion&) {
    fail_at(origin, {line_of_assertion(text), 1}, "this is no TOML");
  }
}

std::optional<Value> parse_toml_value(std::string_view text) {
  try {
    Value table = parse_toml(concat("x = ", text), "value");
    if (table.as_table().size() == 1 && table.as_table()[0].first == "x") return std::move(table.as_table()[0].second);
  } catch (const Error&) {}
  return std::nullopt;
}

}  // namespace tenon::host
