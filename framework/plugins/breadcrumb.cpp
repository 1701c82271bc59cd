#include "plugins/breadcrumb.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "plugins/trail.h"
#include "tenon/error.h"
#include "tenon/seams.h"

namespace tenon::host {

namespace {

struct Crumb {
  const char *id, *call, *subject;
  const Crumb* outer;
};

// A plain pointer in static storage of the thread, so that the signal handler may read it. Linked-in plugins bring thread-local pages (CUDA's runtime has
// 4 KiB) for which a library that is opened late finds no static room; then a thread has it from its first call into a plugin on.
#ifdef TENON_LINKED_PLUGINS
thread_local const Crumb* current = nullptr;
#else
__attribute__((tls_model("initial-exec"))) thread_local const Crumb* current = nullptr;
#endif

// Who stands behind a provider's name. A list that only grows, so that the signal handler may walk it.
struct Known {
  std::string name, id, file;
  const Known* next;
};
std::atomic<const Known*> known{nullptr};

const Known* find_known(const char* name) {
  for (const Known* entry = known.load(std::memory_order_acquire); entry; entry = entry->next)
    if (std::strcmp(entry->name.c_str(), name) == 0 || std::strcmp(entry->id.c_str(), name) == 0) return entry;
  return nullptr;
}

class Trail {
 public:
  Trail(const std::string& id, const char* call, const std::string& subject) : crumb_{id.c_str(), call, subject.c_str(), current} {
    current = &crumb_;
  }
  Trail(const Trail&) = delete;
  Trail& operator=(const Trail&) = delete;
  ~Trail() { current = crumb_.outer; }

 private:
  Crumb crumb_;
};

void say(const char* text) {
  if (::write(STDERR_FILENO, text, std::strlen(text)) < 0) return;
}

// Async-signal-safe calls only.
[[maybe_unused]] void on_fatal_signal(int signal) {
  const char* name = signal == SIGSEGV  ? "segmentation fault"
                     : signal == SIGBUS ? "bus error"
                     : signal == SIGFPE ? "arithmetic error"
                     : signal == SIGILL ? "illegal instruction"
                                        : "abort";
  say("\nerror: ");
  say(name);
  if (current) {
    for (const Crumb* crumb = current; crumb; crumb = crumb->outer) {
      say(crumb == current ? " in plugin " : ", called from plugin ");
      say(crumb->id);
      if (const Known* entry = find_known(crumb->id)) {
        say(" (");
        if (entry->id != crumb->id) say(entry->id.c_str()), say(", ");
        say(entry->file.c_str()), say(")");
      }
      say(", call ");
      say(crumb->call);
      if (crumb->subject[0] != '\0') say(", "), say(crumb->subject);
    }
    say("\nwithout that plugin the host should go on: host plugins list shows its file\n");
  } else {
    say(", outside any plugin's call: a bug of the host, or memory damaged before\n");
  }
  // SA_RESETHAND has put the default back.
  ::raise(signal);
}

}  // namespace

void call_plugin(const std::string& id, const char* call, const std::string& subject, const std::function<void()>& body) {
  const Trail trail(id, call, subject);
  try {
    body();
  } catch (Error& error) {
    error.add_context("plugin " + id);
    throw;
  } catch (const std::bad_alloc&) {
    throw;  // the host's own affair: it knows how much memory there is
  } catch (const std::exception& error) {
    // c10::Error puts a backtrace behind the first line.
    const std::string text = error.what();
    // LibTorch's words for a device or machine that is full: no fault of the plugin's.
    const bool is_memory = text.find("can't allocate memory") != std::string::npos || text.find("out of memory") != std::string::npos;
    fail(is_memory ? ErrorCode::Device : ErrorCode::Plugin, "plugin ", id, ": ", call, subject.empty() ? "" : " " + subject, ": ",
         text.substr(0, text.find("\nException raised from")));
  } catch (...) {
    fail(ErrorCode::Plugin, "plugin ", id, ": ", call, subject.empty() ? "" : " " + subject, ": threw something that is no exception");
  }
}

void note_provider(const std::string& name, const std::string& id, const std::string& file) {
  const Known* first = known.load(std::memory_order_acquire);
  auto* entry = new Known{name, id, file, first};
  while (!known.compare_exchange_weak(first, entry, std::memory_order_release)) entry->next = first;
}

std::string current_plugin() {
  if (!current) return "";
  const Known* entry = find_known(current->id);
  return entry ? entry->id : current->id;
}

const void* exchange_trail(const void* trail) { return std::exchange(current, static_cast<const Crumb*>(trail)); }

namespace {
// exit() inside a plugin's call would be a run that ends well and has done nothing.
void on_exit() {
  if (!current) return;
  say("error: plugin ");
  say(current->id);
  say(" ended the process in call ");
  say(current->call);
  say("\n");
  ::_exit(static_cast<int>(ErrorCode::Plugin));
}
}  // namespace

void install_crash_handler() {
  std::atexit(on_exit);
#ifndef __SANITIZE_ADDRESS__  // which reports crashes itself, and better
  // A stack of its own: a stack overflow is reported too.
  static auto* const stack = new std::vector<char>(64 << 10);
  stack_t alternative{};
  alternative.ss_sp = stack->data();
  alternative.ss_size = stack->size();
  ::sigaltstack(&alternative, nullptr);
  struct sigaction action {};
  action.sa_handler = on_fatal_signal;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_ONSTACK | SA_NODEFER);
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) ::sigaction(signal, &action, nullptr);
#endif
}

}  // namespace tenon::host

namespace tenon::detail {

std::string running_plugin() { return host::current_plugin(); }

void run_in_name_of(const std::string& owner, const std::string& where, const std::function<void()>& call) {
  host::call_plugin(owner, where.c_str(), "", call);
}

}  // namespace tenon::detail
