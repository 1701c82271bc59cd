#pragma once
// The one exception type of tenon. Errors are thrown; each layer that knows where it is adds a context frame.
// Text follows the compiler's habit: lower case, what was found, what was expected, one way forward, no full stop.
#include <exception>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tenon/export.h"

namespace tenon {

// The values are the exit statuses of `host`.
enum class ErrorCode : int {
  Usage = 2,         // the command line
  Recipe = 3,        // the recipe, plugin options included
  Plugin = 4,        // a plugin: absent, refused, or it failed
  Data = 5,          // checkpoint, adapter folder, training data, text
  Device = 6,        // devices and memory
  Internal = 70,     // a bug of ours
  Interrupted = 130  // Ctrl-C
};

class TENON_API Error : public std::exception {
 public:
  Error(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) { compose(); }

  ErrorCode code() const noexcept { return code_; }
  const std::string& message() const noexcept { return message_; }
  // Outermost first, for example {"plugin quant_nf4", "model.layers.3.mlp.up_proj"}.
  const std::vector<std::string>& contexts() const noexcept { return contexts_; }
  const char* what() const noexcept override { return text_.c_str(); }

  void add_context(std::string frame) {
    contexts_.insert(contexts_.begin(), std::move(frame));
    compose();
  }

 private:
  void compose() {
    text_.clear();
    for (const auto& frame : contexts_) text_ += frame + ": ";
    text_ += message_;
  }
  ErrorCode code_;
  std::string message_, text_;
  std::vector<std::string> contexts_;
};

// Streams its arguments into one string: concat("rank ", r, " is over ", in).
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return std::move(out).str();
}

template <class... Parts>
[[noreturn]] void fail(ErrorCode code, const Parts&... parts) {
  throw Error(code, concat(parts...));
}

// Runs `body`; a tenon::Error that leaves it carries `frame` in front.
template <class Body>
decltype(auto) with_context(const std::string& frame, Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (Error& error) {
    error.add_context(frame);
    throw;
  }
}

}  // namespace tenon
