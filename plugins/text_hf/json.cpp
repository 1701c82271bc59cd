#include "json.h"

#include <charconv>
#include <cmath>

namespace tenon::text_hf {

namespace {

void write_string(const std::string& text, std::string& out) {
  static constexpr char digits[] = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20) {
      out += "\\u00";
      out += digits[byte >> 4];
      out += digits[byte & 15];
    } else {
      out += c;
    }
  }
  out += '"';
}

void write_float(double value, std::string& out) {
  if (!std::isfinite(value)) fail(ErrorCode::Data, "JSON has no number ", value);
  char buffer[32];
  const std::string_view text(buffer, static_cast<size_t>(std::to_chars(buffer, buffer + sizeof buffer, value).ptr - buffer));
  out += text;
  if (text.find_first_of(".e") == std::string_view::npos) out += ".0";
}

void write(const Value& value, std::string& out) {
  if (value.is_null()) {
    out += "null";
  } else if (value.is_bool()) {
    out += value.as_bool() ? "true" : "false";
  } else if (value.is_int()) {
    out += std::to_string(value.as_int());
  } else if (value.is_float()) {
    write_float(value.as_float(), out);
  } else if (value.is_string()) {
    write_string(value.as_string(), out);
  } else if (value.is_list()) {
    out += '[';
    for (const auto& item : value.as_list()) {
      if (out.back() != '[') out += ',';
      write(item, out);
    }
    out += ']';
  } else {
    out += '{';
    for (const auto& [key, item] : value.as_table()) {
      if (out.back() != '{') out += ',';
      write_string(key, out);
      out += ':';
      write(item, out);
    }
    out += '}';
  }
}

}  // namespace

std::string to_json(const Value& value) {
  std::string out;
  write(value, out);
  return out;
}

}  // namespace tenon::text_hf
