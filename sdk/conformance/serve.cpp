#include <fcntl.h>
#include <unistd.h>

#include <cstdio>

#include "global_state.h"
#include "runner.h"

namespace tenon::conformance {

namespace {

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') out += '\\';
    out += c == '\n' ? '\\' : c;
    if (c == '\n') out += 'n';
  }
  return out;
}

// LibTorch puts its backtrace behind the first line.
std::string first_part(const std::string& text) { return text.substr(0, text.find("\nException raised from")); }

std::string answer(Context& context, const Check& check) {
  try {
    // What loading left behind is what load.global_state looks for.
    if (check.group() != "load") reset_torch_state();
    check.run(context);
    return "pass";
  } catch (const Failed& failure) {
    return "fail\t" + escaped(failure.text);
  } catch (const Skipped& skip) {
    return "skip\t" + escaped(skip.reason);
  } catch (const std::exception& error) {
    return "fail\t" + escaped(first_part(error.what()));
  } catch (...) {
    return "fail\tsomething that is no exception was thrown";
  }
}

void write_line(int fd, const std::string& line) {
  const std::string text = line + "\n";
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(fd, text.data() + done, text.size() - done);
    if (n <= 0) ::_exit(1);
    done += static_cast<size_t>(n);
  }
}

}  // namespace

void serve(const Subject& subject, int level, uint64_t seed, bool reproduces) {
  // The line to the parent moves out of the plugin's reach.
  const int in = ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 10), out = ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 10);
  ::dup2(STDERR_FILENO, STDOUT_FILENO);
  if (const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC); null >= 0) ::dup2(null, STDIN_FILENO);
  std::FILE* requests = ::fdopen(in, "r");
  reset_torch_state();  // before the context looks at how things are
  Context context(subject, level, seed, reproduces);
  char line[512];
  while (requests && std::fgets(line, sizeof line, requests)) {
    std::string text = line;
    while (!text.empty() && text.back() == '\n') text.pop_back();
    const size_t tab = std::min(text.find('\t'), text.size());
    const std::string id = text.substr(0, tab), name = tab < text.size() ? text.substr(tab + 1) : "";
    const Check* check = find_check(id);
    if (!check) {
      write_line(out, "fail\tthere is no check '" + id + "'");
      continue;
    }
    context.turn_to(id, name);
    std::string reply;
    auto body = [&] { reply = answer(context, *check); };
    subject.guarded ? subject.guarded(id, name, body) : body();
    write_line(out, reply);
  }
  // No destructors of the plugin: they are nobody's concern any more.
  ::_exit(0);
}

}  // namespace tenon::conformance
