#pragma once
// A child process that answers lines.
#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

namespace tenon::conformance {

class Child {
 public:
  explicit Child(const std::vector<std::string>& command);
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child();  // kills it and what it started

  enum class Ending { Answered, Died, TimedOut, Cancelled };
  struct Reply {
    Ending ending = Ending::Answered;
    std::string text;  // the answer; or how it died, and the last lines it wrote to standard error
  };
  Reply ask(const std::string& line, double timeout_seconds, const std::function<bool()>& cancelled);

 private:
  Reply death();
  void end();
  pid_t pid_ = -1;
  int socket_ = -1, errors_ = -1;
  std::string unread_, error_text_;
};

}  // namespace tenon::conformance
