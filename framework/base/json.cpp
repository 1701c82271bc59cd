#include "base/json.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/file.h"

namespace tenon::host {

namespace {

using Json = nlohmann::json;

// Walks the text and tells where it is: the parser's events do not.
class Cursor {
 public:
  using iterator_category = std::forward_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  Cursor() = default;
  Cursor(const char* at, const char** reached) : at_(at), reached_(reached) {}
  reference operator*() const { return *at_; }
  Cursor& operator++() {
    *reached_ = ++at_;
    return *this;
  }
  Cursor operator++(int) {
    const Cursor before = *this;
    ++*this;
    return before;
  }
  friend bool operator==(const Cursor& a, const Cursor& b) { return a.at_ == b.at_; }

 private:
  const char* at_ = nullptr;
  const char** reached_ = nullptr;
};

// Builds a Value from the parser's events.
class Reader {
 public:
  using number_integer_t = Json::number_integer_t;
  using number_unsigned_t = Json::number_unsigned_t;
  using number_float_t = Json::number_float_t;
  using string_t = Json::string_t;
  using binary_t = Json::binary_t;

  explicit Reader(const JsonLimits& limits) : limits_(limits) {}

  bool null() { return put(Value()); }
  bool boolean(bool v) { return put(Value(v)); }
  bool number_integer(number_integer_t v) { return put(Value(static_cast<int64_t>(v))); }
  bool number_unsigned(number_unsigned_t v) {
    return v <= static_cast<number_unsigned_t>(INT64_MAX) ? put(Value(static_cast<int64_t>(v))) : put(Value(static_cast<double>(v)));
  }
  bool number_float(number_float_t v, const string_t&) { return put(Value(v)); }
  bool string(string_t& v) { return put(Value(std::move(v))); }
  bool binary(binary_t&) { return false; }
  bool start_object(size_t) { return open(Value::table()); }
  bool key(string_t& v) {
    if (!open_.back().seen.insert(v).second) return refuse("key '" + v + "' stands twice in one object");
    open_.back().key = std::move(v);
    return true;
  }
  bool end_object() { return close(); }
  bool start_array(size_t) { return open(Value::list()); }
  bool end_array() { return close(); }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) {
    if (problem.empty()) {
      // The library's text without its own numbering: "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error ...".
      std::string text = error.what();
      if (const size_t colon = text.find(": "); colon != std::string::npos) text = text.substr(colon + 2);
      problem = text;
    }
    return false;
  }

  Value root;
  std::string problem;

 private:
  struct Level {
    Value value;
    std::string key;
    std::set<std::string> seen;
  };

  bool refuse(std::string why) {
    problem = std::move(why);
    return false;
  }
  bool put(Value value) {
    if (++count_ > limits_.max_values) return refuse("more than " + std::to_string(limits_.max_values) + " values");
    if (open_.empty())
      root = std::move(value);
    else if (open_.back().value.is_list())
      open_.back().value.as_list().push_back(std::move(value));
    else
      open_.back().value.as_table().emplace_back(std::move(open_.back().key), std::move(value));
    return true;
  }
  bool open(Value value) {
    if (static_cast<int>(open_.size()) >= limits_.max_depth)
      return refuse("nested more than " + std::to_string(limits_.max_depth) + " deep");
    open_.push_back({std::move(value), {}, {}});
    return true;
  }
  bool close() {
    Value value = std::move(open_.back().value);
    open_.pop_back();
    return put(std::move(value));
  }

  JsonLimits limits_;
  std::vector<Level> open_;
  size_t count_ = 0;
};

nlohmann::ordered_json to_library(const Value& value) {
  using Out = nlohmann::ordered_json;
  if (value.is_bool()) return Out(value.as_bool());
  if (value.is_int()) return Out(value.as_int());
  if (value.is_float()) return std::isfinite(value.as_float()) ? Out(value.as_float()) : Out(nullptr);
  if (value.is_string()) return Out(value.as_string());
  if (value.is_list()) {
    Out list = Out::array();
    for (const auto& item : value.as_list()) list.push_back(to_library(item));
    return list;
  }
  if (value.is_table()) {
    Out table = Out::object();
    // Keys are different already; looking for each would take the square of their number.
    auto& entries = table.get_ref<Out::object_t&>();
    for (const auto& [key, item] : value.as_table()) entries.emplace_back(key, to_library(item));
    return table;
  }
  return Out(nullptr);
}

}  // namespace

Value parse_json(std::string_view text, const std::string& origin, const JsonLimits& limits) {
  Reader reader(limits);
  const char* reached = text.data();
  const Cursor begin(text.data(), &reached), end(text.data() + text.size(), &reached);
  if (Json::sax_parse(begin, end, &reader)) return std::move(reader.root);
  // The character that was read last.
  const size_t last = std::max<size_t>(static_cast<size_t>(reached - text.data()), 1) - 1;
  const std::string_view before = text.substr(0, last);
  const size_t newline = before.rfind('\n');
  fail(ErrorCode::Data, origin, ":", 1 + std::count(before.begin(), before.end(), '\n'), ":",
       newline == std::string_view::npos ? last + 1 : last - newline, ": ", reader.problem);
}

Value read_json_file(const std::filesystem::path& file, const JsonLimits& limits) {
  return parse_json(read_file(file), file.string(), limits);
}

std::string to_json(const Value& value, int indent) {
  return to_library(value).dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace tenon::host
