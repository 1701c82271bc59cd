#include "child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "tenon/error.h"

namespace tenon::conformance {

namespace {

constexpr size_t kKeptErrorBytes = 2000;

std::string how_it_ended(int status) {
  if (WIFSIGNALED(status)) return concat("SIG", ::sigabbrev_np(WTERMSIG(status)), " (", ::sigdescr_np(WTERMSIG(status)), ")");
  return concat("the process was ended with status ", WEXITSTATUS(status));
}

// Between fork and exec: async-signal-safe calls alone, LibTorch's threads are not here.
[[noreturn]] void become(char* const* arguments, int socket, int errors) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  ::dup2(socket, STDIN_FILENO);
  ::dup2(socket, STDOUT_FILENO);
  ::dup2(errors, STDERR_FILENO);
  ::execv(arguments[0], arguments);
  ::_exit(127);
}

}  // namespace

Child::Child(const std::vector<std::string>& command) {
  int sockets[2], errors[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0 || ::pipe2(errors, O_CLOEXEC) != 0)
    fail(ErrorCode::Internal, "cannot make a pipe to a child process: ", std::strerror(errno));
  std::vector<char*> arguments;
  for (const auto& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  pid_ = ::fork();
  if (pid_ == 0) become(arguments.data(), sockets[1], errors[1]);
  ::close(sockets[1]);
  ::close(errors[1]);
  socket_ = sockets[0];
  errors_ = errors[0];
  if (pid_ < 0) fail(ErrorCode::Internal, "cannot start a child process: ", std::strerror(errno));
  ::setpgid(pid_, pid_);  // whoever comes first
  ::fcntl(errors_, F_SETFL, O_NONBLOCK);
}

Child::~Child() {
  end();
  ::close(socket_);
  ::close(errors_);
}

void Child::end() {
  if (pid_ <= 0) return;
  ::kill(-pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

Child::Reply Child::death() {
  int status = 0;
  ::waitpid(pid_, &status, 0);
  ::kill(-pid_, SIGKILL);  // what it may have started
  pid_ = -1;
  char buffer[4096];
  for (ssize_t n; (n = ::read(errors_, buffer, sizeof buffer)) > 0;) error_text_.append(buffer, static_cast<size_t>(n));
  if (error_text_.size() > kKeptErrorBytes) error_text_.erase(0, error_text_.size() - kKeptErrorBytes);
  while (!error_text_.empty() && error_text_.back() == '\n') error_text_.pop_back();
  return {Ending::Died, how_it_ended(status) + (error_text_.empty() ? "" : "\n" + error_text_)};
}

Child::Reply Child::ask(const std::string& line, double timeout_seconds, const std::function<bool()>& cancelled) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + std::chrono::duration<double>(timeout_seconds);
  const std::string request = line + "\n";
  // A dead child is noticed below.
  (void)::send(socket_, request.data(), request.size(), MSG_NOSIGNAL);
  char buffer[4096];
  for (;;) {
    if (const size_t end_of_line = unread_.find('\n'); end_of_line != std::string::npos) {
      Reply reply{Ending::Answered, unread_.substr(0, end_of_line)};
      unread_.erase(0, end_of_line + 1);
      return reply;
    }
    const double left = std::chrono::duration<double>(deadline - Clock::now()).count();
    if (left <= 0) return end(), Reply{Ending::TimedOut, ""};
    if (cancelled && cancelled()) return end(), Reply{Ending::Cancelled, ""};
    pollfd files[2] = {{socket_, POLLIN, 0}, {errors_, POLLIN, 0}};
    ::poll(files, errors_ >= 0 ? 2 : 1, static_cast<int>(std::min(100.0, left * 1000 + 1)));
    if (files[1].revents != 0) {
      const ssize_t n = ::read(errors_, buffer, sizeof buffer);
      if (n > 0) error_text_.append(buffer, static_cast<size_t>(n));
      if (error_text_.size() > 2 * kKeptErrorBytes) error_text_.erase(0, error_text_.size() - kKeptErrorBytes);
    }
    if (files[0].revents != 0) {
      const ssize_t n = ::recv(socket_, buffer, sizeof buffer, 0);
      if (n > 0)
        unread_.append(buffer, static_cast<size_t>(n));
      else if (n == 0 || errno != EINTR)
        return death();
    }
  }
}

}  // namespace tenon::conformance
