#include "recipe/toml_precheck.h"

#include <algorithm>

namespace tenon::host {

namespace {

constexpr int kMaxKeyParts = 32;

// Walks the text with an eye for strings, comments and lines only.
class Walk {
 public:
  explicit Walk(std::string_view text) : text_(text) {
    if (text_.substr(0, 3) == "\xef\xbb\xbf") at_ = line_start_ = 3;
  }

  TomlTrouble find() {
    int dots = 0;
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c == '\n') {
        new_line();
        dots = 0;
      } else if (c == '#') {
        skip_comment();
      } else if (c == '"' || c == '\'') {
        skip_string(c);
      } else if (c == '.') {
        if (++dots > kMaxKeyParts) return trouble(concat("a key of more than ", kMaxKeyParts, " parts"));
      } else if (static_cast<unsigned char>(c) >= 0x80) {
        return trouble("a character outside ASCII must stand in quotes");
      } else if (std::string_view("=,[]{}").find(c) != std::string_view::npos) {
        dots = 0;
      }
    }
    return {};
  }

 private:
  TomlTrouble trouble(std::string text) const { return {{line_, static_cast<uint32_t>(at_ - line_start_ + 1)}, std::move(text)}; }

  void new_line() {
    ++line_;
    line_start_ = at_ + 1;
  }

  // To the last character before the line's end.
  void skip_comment() { at_ = std::min(text_.find('\n', at_), text_.size()) - 1; }

  // To the string's last quote, or to the last character before the line's end where it is not closed: the parser stops there.
  void skip_string(char quote) {
    const bool is_long = text_.substr(at_, 3) == std::string(3, quote);
    const size_t width = is_long ? 3 : 1;
    const std::string_view end = text_.substr(at_, width);
    for (at_ += width; at_ < text_.size() && text_.substr(at_, width) != end; ++at_) {
      if (quote == '"' && text_[at_] == '\\' && at_ + 1 < text_.size()) ++at_;
      if (text_[at_] != '\n') continue;
      if (!is_long) {
        --at_;
        return;
      }
      new_line();
    }
    at_ += width;
    // Up to two more quotes belong to a long string that ends with quotes.
    for (int more = 0; is_long && more < 2 && at_ < text_.size() && text_[at_] == quote; ++more) ++at_;
    --at_;
  }

  std::string_view text_;
  size_t at_ = 0, line_start_ = 0;
  uint32_t line_ = 1;
};

}  // namespace

TomlTrouble find_toml_trouble(std::string_view text) { return Walk(text).find(); }

}  // namespace tenon::host
