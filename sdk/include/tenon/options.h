#pragma once
// A plugin's option table: the single source of parsing, defaults, constraints, `host plugins describe`, the recipe
// reference and spelling suggestions. Defaults are the member initializers of the options struct. Both tiers use it; C++17 is enough.
//
//   struct Nf4Options { int64_t block_size = 64; bool double_quant = false; };
//   OptionTable table = option_table<Nf4Options>({
//       option(&Nf4Options::block_size, "block_size", "Weights that share one absmax.", one_of({32, 64, 128})),
//       option(&Nf4Options::double_quant, "double_quant", "Quantize the absmax values again, to 8 bits."),
//   });
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tenon/value.h"

namespace tenon {

// Empty choices and infinite bounds mean "no such constraint". `check` returns what is wrong, or "".
struct Constraint {
  std::vector<Value> choices = {};
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  std::function<std::string(const Value&)> check = nullptr;
};

inline Constraint one_of(std::vector<Value> choices) {
  Constraint constraint;
  constraint.choices = std::move(choices);
  return constraint;
}
inline Constraint range(double min, double max = std::numeric_limits<double>::infinity()) {
  Constraint constraint;
  constraint.min = min;
  constraint.max = max;
  return constraint;
}
inline Constraint checked(std::function<std::string(const Value&)> check) {
  Constraint constraint;
  constraint.check = std::move(check);
  return constraint;
}

struct OptionRow {
  std::string name, doc;
  std::string type;  // "bool", "int", "float", "string", "list of strings", "table", "any": as printed by describe
  Value default_value;
  Constraint constraint;
  // Converts and stores into the options struct at `object`; throws Error(Data) with found and expected type.
  std::function<void(void* object, const Value&)> set;
};

struct OptionTable {
  std::vector<OptionRow> rows;
  // Names that were options once, with the sentence that says what to write instead.
  std::vector<std::pair<std::string, std::string>> retired = {};
};

namespace detail {
template <class T>
struct OptionCodec;
template <>
struct OptionCodec<bool> {
  static constexpr const char* type = "bool";
  static bool read(const Value& v) { return v.as_bool(); }
};
template <>
struct OptionCodec<int64_t> {
  static constexpr const char* type = "int";
  static int64_t read(const Value& v) { return v.as_int(); }
};
template <>
struct OptionCodec<double> {
  static constexpr const char* type = "float";
  static double read(const Value& v) { return v.as_float(); }
};
template <>
struct OptionCodec<std::string> {
  static constexpr const char* type = "string";
  static std::string read(const Value& v) { return v.as_string(); }
};
template <>
struct OptionCodec<std::vector<std::string>> {
  static constexpr const char* type = "list of strings";
  static std::vector<std::string> read(const Value& v) {
    std::vector<std::string> items;
    for (const auto& item : v.as_list()) items.push_back(item.as_string());
    return items;
  }
};
// For what has several forms ("all-linear", a list or a regex): the plugin looks at the value itself.
template <>
struct OptionCodec<Value> {
  static constexpr const char* type = "any";
  static Value read(const Value& v) { return v; }
};
template <class T>
struct OptionCodec<std::optional<T>> {
  static constexpr const char* type = OptionCodec<T>::type;
  static std::optional<T> read(const Value& v) { return OptionCodec<T>::read(v); }
};
}  // namespace detail

template <class Owner, class T>
OptionRow option(T Owner::*member, std::string name, std::string doc, Constraint constraint = {}) {
  return OptionRow{std::move(name),
                   std::move(doc),
                   detail::OptionCodec<T>::type,
                   Value(Owner{}.*member),
                   std::move(constraint),
                   [member](void* object, const Value& v) { static_cast<Owner*>(object)->*member = detail::OptionCodec<T>::read(v); }};
}

template <class Owner>
OptionTable option_table(std::vector<OptionRow> rows) {
  return OptionTable{std::move(rows)};
}

// Fills a struct from values that the host has checked against the table.
template <class Owner>
Owner read_options(const OptionTable& table, const Value& values) {
  Owner options;
  if (values.is_null()) return options;
  for (const Value::Entry& entry : values.as_table())
    for (const auto& row : table.rows)
      if (row.name == entry.first) with_context(concat("option '", entry.first, "'"), [&] { row.set(&options, entry.second); });
  return options;
}

}  // namespace tenon
