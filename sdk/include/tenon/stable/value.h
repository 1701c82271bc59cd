#pragma once
// tenon::Value to the plain values of the C border and back: for both sides of it.
#include <deque>
#include <string>
#include <vector>

#include "tenon/stable/abi.h"
#include "tenon/value.h"

namespace tenon::stable {

inline Value read_value(const tenon_value& v) {
  switch (v.kind) {
    case TENON_NULL: return {};
    case TENON_BOOL: return v.as.integer != 0;
    case TENON_INT: return v.as.integer;
    case TENON_FLOAT: return v.as.number;
    case TENON_TEXT: return std::string(v.as.text, static_cast<size_t>(v.count));
    case TENON_LIST: {
      Value::List items;
      for (int64_t i = 0; i < v.count; ++i) items.push_back(read_value(v.as.items[i]));
      return items;
    }
    case TENON_TABLE: {
      Value::Table entries;
      for (int64_t i = 0; i < v.count; ++i) entries.emplace_back(v.as.entries[i].key, read_value(v.as.entries[i].value));
      return entries;
    }
    default: fail(ErrorCode::Plugin, "a value of kind ", v.kind, ", which this release does not know");
  }
}

// Owns what plain values point to. What it has lowered stays valid, and in its place, until it goes.
class ValueArena {
 public:
  tenon_value lower(const Value& value) {
    tenon_value v{};
    if (value.is_bool()) {
      v.kind = TENON_BOOL, v.as.integer = value.as_bool();
    } else if (value.is_int()) {
      v.kind = TENON_INT, v.as.integer = value.as_int();
    } else if (value.is_float()) {
      v.kind = TENON_FLOAT, v.as.number = value.as_float();
    } else if (value.is_string()) {
      v.kind = TENON_TEXT, v.as.text = text(value.as_string()), v.count = static_cast<int64_t>(value.as_string().size());
    } else if (value.is_list()) {
      const auto& items = lower_list(value.as_list());
      v.kind = TENON_LIST, v.as.items = items.data(), v.count = static_cast<int64_t>(items.size());
    } else if (value.is_table()) {
      const auto& entries = lower_table(value.as_table());
      v.kind = TENON_TABLE, v.as.entries = entries.data(), v.count = static_cast<int64_t>(entries.size());
    }
    return v;
  }
  const std::vector<tenon_value>& lower_list(const Value::List& list) {
    std::vector<tenon_value> items;
    for (const Value& item : list) items.push_back(lower(item));
    return items_.emplace_back(std::move(items));
  }
  const std::vector<tenon_entry>& lower_table(const Value::Table& table) {
    std::vector<tenon_entry> entries;
    for (const auto& [key, item] : table) entries.push_back({text(key), lower(item)});
    return entries_.emplace_back(std::move(entries));
  }
  const char* text(std::string text) { return texts_.emplace_back(std::move(text)).c_str(); }
  // For results that are asked for by pointer.
  const tenon_value* keep(const Value& value) { return &values_.emplace_back(lower(value)); }

 private:
  std::deque<std::string> texts_;
  std::deque<std::vector<tenon_value>> items_;
  std::deque<std::vector<tenon_entry>> entries_;
  std::deque<tenon_value> values_;
};

}  // namespace tenon::stable
