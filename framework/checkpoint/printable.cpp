#include "checkpoint/printable.h"

namespace tenon::host {

namespace {
constexpr size_t kLongest = 160;

void append_safe(std::string& out, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    // U+0080 to U+009F steer terminals as well.
    const bool c1 = c == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if (c >= 0x20 && c != 0x7f && !c1) {
      out += text[i];
      continue;
    }
    const auto shown = static_cast<unsigned char>(c1 ? text[++i] : text[i]);
    out += "\\x";
    out += kHex[shown >> 4];
    out += kHex[shown & 15];
  }
}
}  // namespace

std::string in_quotes(std::string_view name) {
  std::string out = "'";
  if (name.size() <= kLongest) {
    append_safe(out, name);
  } else {
    append_safe(out, name.substr(0, kLongest / 2));
    out += "...";
    append_safe(out, name.substr(name.size() - kLongest / 4));
  }
  return out + "'";
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i) out += ", ";
    out += std::to_string(shape[i]);
  }
  return out + "]";
}

}  // namespace tenon::host
