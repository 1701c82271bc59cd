#pragma once
// A TOML or JSON value: what recipes, config.json, plugin options and metadata are made of.
// Tables keep the order of the file (PEFT's patterns depend on it). A plain value type: copy it, compare it.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "tenon/error.h"

namespace tenon {

class Value {
 public:
  using List = std::vector<Value>;
  using Entry = std::pair<std::string, Value>;
  using Table = std::vector<Entry>;

  // Where the value stood: set for recipes (1-based), zero elsewhere. Not part of equality.
  struct Place {
    uint32_t line = 0, column = 0;
  };

  Value() = default;
  Value(std::nullptr_t) {}
  Value(bool v) : data_(v) {}
  Value(int v) : data_(int64_t{v}) {}
  Value(unsigned v) : data_(int64_t{v}) {}
  Value(long v) : data_(int64_t{v}) {}
  Value(long long v) : data_(int64_t{v}) {}
  Value(unsigned long v) : data_(static_cast<int64_t>(v)) {}
  Value(double v) : data_(v) {}
  Value(const char* v) : data_(std::string(v)) {}
  Value(std::string_view v) : data_(std::string(v)) {}
  Value(std::string v) : data_(std::move(v)) {}
  Value(List v) : data_(std::move(v)) {}
  Value(Table v) : data_(std::move(v)) {}
  template <class T>
  Value(const std::vector<T>& items) : data_(List(items.begin(), items.end())) {}
  template <class T>
  Value(const std::optional<T>& v) {
    if (v) *this = Value(*v);
  }

  static Value table() { return Value(Table{}); }
  static Value list() { return Value(List{}); }

  bool is_null() const { return data_.index() == 0; }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_int() || is_float(); }
  bool is_string() const { return std::holds_alternative<std::string>(data_); }
  bool is_list() const { return std::holds_alternative<List>(data_); }
  bool is_table() const { return std::holds_alternative<Table>(data_); }

  // "null", "bool", "int", "float", "string", "list" or "table".
  const char* type_name() const {
    static constexpr const char* names[] = {"null", "bool", "int", "float", "string", "list", "table"};
    return names[data_.index()];
  }

  // Each throws Error(Data) naming found and expected type. as_float accepts an int, as_int a float without fraction.
  bool as_bool() const { return get<bool>("bool"); }
  int64_t as_int() const {
    if (const double* d = std::get_if<double>(&data_);
        d && *d >= -9.2e18 && *d <= 9.2e18 && *d == static_cast<double>(static_cast<int64_t>(*d)))
      return static_cast<int64_t>(*d);
    return get<int64_t>("int");
  }
  double as_float() const { return is_int() ? static_cast<double>(std::get<int64_t>(data_)) : get<double>("number"); }
  const std::string& as_string() const { return get<std::string>("string"); }
  const List& as_list() const { return get<List>("list"); }
  const Table& as_table() const { return get<Table>("table"); }
  List& as_list() { return const_cast<List&>(std::as_const(*this).as_list()); }
  Table& as_table() { return const_cast<Table&>(std::as_const(*this).as_table()); }

  // Of a table: the entry, or nullptr when absent or when this is no table. JSON null counts as present.
  const Value* find(std::string_view key) const {
    if (const Table* table = std::get_if<Table>(&data_))
      for (const auto& [name, value] : *table)
        if (name == key) return &value;
    return nullptr;
  }
  Value* find(std::string_view key) { return const_cast<Value*>(std::as_const(*this).find(key)); }
  // The entry, absent and null alike giving nullptr.
  const Value* find_set(std::string_view key) const {
    const Value* value = find(key);
    return value && !value->is_null() ? value : nullptr;
  }
  const Value& at(std::string_view key) const {
    if (const Value* value = find(key)) return *value;
    fail(ErrorCode::Data, "key '", key, "' is missing");
  }
  // Appends or overwrites; a null value becomes a table first.
  void set(std::string_view key, Value value) {
    if (is_null()) data_ = Table{};
    if (Value* old = find(key))
      *old = std::move(value);
    else
      as_table().emplace_back(std::string(key), std::move(value));
  }
  bool erase(std::string_view key) {
    Table& table = as_table();
    for (auto it = table.begin(); it != table.end(); ++it)
      if (it->first == key) return table.erase(it), true;
    return false;
  }

  // With a fallback for absent or null entries.
  bool bool_or(std::string_view key, bool fallback) const {
    return read_or(key, fallback, [](const Value& v) { return v.as_bool(); });
  }
  int64_t int_or(std::string_view key, int64_t fallback) const {
    return read_or(key, fallback, [](const Value& v) { return v.as_int(); });
  }
  double float_or(std::string_view key, double fallback) const {
    return read_or(key, fallback, [](const Value& v) { return v.as_float(); });
  }
  std::string string_or(std::string_view key, std::string fallback) const {
    return read_or(key, std::move(fallback), [](const Value& v) { return v.as_string(); });
  }

  Place place;

  // By value; key order of tables does not count, 1 equals 1.0.
  friend bool operator==(const Value& a, const Value& b) {
    if (a.is_number() && b.is_number() && a.data_.index() != b.data_.index()) return a.as_float() == b.as_float();
    if (a.is_table() && b.is_table()) {
      if (a.as_table().size() != b.as_table().size()) return false;
      for (const auto& [key, value] : a.as_table()) {
        const Value* other = b.find(key);
        if (!other || !(*other == value)) return false;
      }
      return true;
    }
    return a.data_ == b.data_;
  }

 private:
  template <class T>
  const T& get(const char* expected) const {
    if (const T* v = std::get_if<T>(&data_)) return *v;
    fail(ErrorCode::Data, "expected ", expected, ", found ", type_name());
  }
  template <class T, class Read>
  T read_or(std::string_view key, T fallback, Read read) const {
    const Value* value = find_set(key);
    if (!value) return fallback;
    return with_context(concat("'", key, "'"), [&]() -> T { return read(*value); });
  }
  std::variant<std::monostate, bool, int64_t, double, std::string, List, Table> data_;
};

}  // namespace tenon
