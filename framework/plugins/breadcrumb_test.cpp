#include "plugins/breadcrumb.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "plugins/registry.h"
#include "support/errors.h"
#include "support/paths.h"
#include "tenon/patch.h"
#include "tenon/seams.h"

#include <doctest/doctest.h>

namespace fs = std::filesystem;
using namespace tenon;
using namespace tenon::host;
using tenon::testing::bad_plugin;
using tenon::testing::contains;
using tenon::testing::error_of;

namespace {

// What a process that ends of a segmentation fault writes to stderr.
std::string words_of_crash(const std::function<void()>& body) {
  int pipe[2];
  REQUIRE(::pipe(pipe) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(pipe[1], STDERR_FILENO);
    install_crash_handler();
    body();
    ::_exit(0);
  }
  ::close(pipe[1]);
  std::string text(4096, '\0');
  size_t size = 0;
  for (ssize_t n; (n = ::read(pipe[0], text.data() + size, text.size() - size)) > 0;) size += static_cast<size_t>(n);
  ::close(pipe[0]);
  text.resize(size);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGSEGV);
  return text;
}

// A model of plugin "org.example.arch" whose embedding seam a patch of "org.example.patch" wraps.
Seams patched(const std::function<void()>& of_default, const std::function<void()>& of_patch) {
  Seams seams;
  call_plugin("org.example.arch", "build", "",
              [&] { seams.embedding.set_default("rows", [=](const EmbeddingArgs& args) { return of_default(), args.ids; }); });
  call_plugin("org.example.patch", "on_seams", "",
              [&] { seams.embedding.wrap("noise", [=](const EmbeddingArgs& args, const auto& next) { return of_patch(), next(args); }); });
  return seams;
}
void run(const Seams& seams) {
  call_plugin("org.example.arch", "begin", "", [&] { seams.embedding({}); });
}

}  // namespace

TEST_CASE("a machine that is full is not the plugin's fault") {
  try {
    call_plugin("org.example.x", "linear", "", [] { throw std::runtime_error("DefaultCPUAllocator: can't allocate memory"); });
    FAIL("should have thrown");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::Device);
  }
}

TEST_CASE("a plugin that ends the process does not end it well") {
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(STDERR_FILENO);
    install_crash_handler();
    call_plugin("org.example.leaver", "make", "", [] { std::exit(0); });
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == static_cast<int>(ErrorCode::Plugin));
}

TEST_CASE("a crash tells in whose call it happened") {
#ifdef __SANITIZE_ADDRESS__
  MESSAGE("SKIP: AddressSanitizer reports crashes itself");
#else
  const std::string text = words_of_crash([] {
    Registry registry(discover_plugins({.plugin_dirs = {}, .plugin_files = {bad_plugin("makes_nothing")}, .bundled_only = false}));
    call_plugin("org.example.outer", "on_config", "", [&] { registry.patch("crashes_in_make").make(Value::table()); });
  });
  CHECK(contains(text, "error: segmentation fault in plugin org.example.makes_nothing (" +
                           fs::canonical(bad_plugin("makes_nothing")).string() +
                           "), call make, crashes_in_make, called from plugin org.example.outer, call on_config"));
#endif
}

TEST_CASE("what happens in a seam is told of the plugin whose function it is") {
  const auto nothing = [] {};
  const auto breaks = [] { throw std::runtime_error("3 rows"); };
  CHECK_NOTHROW(run(patched(nothing, nothing)));
  CHECK(contains(error_of([&] { run(patched(nothing, breaks)); }), "plugin org.example.patch: embedding seam, noise: 3 rows"));
  CHECK(contains(error_of([&] { run(patched(breaks, nothing)); }), "plugin org.example.arch: embedding seam, rows: 3 rows"));
#ifndef __SANITIZE_ADDRESS__
  const auto crashes = [] { ::raise(SIGSEGV); };
  CHECK(contains(
      words_of_crash([&] { run(patched(nothing, crashes)); }),
      "segmentation fault in plugin org.example.patch, call embedding seam, noise, called from plugin org.example.arch, call begin"));
  CHECK(contains(words_of_crash([&] { run(patched(crashes, nothing)); }),
                 "segmentation fault in plugin org.example.arch, call embedding seam, rows, called from plugin org.example.patch"));
#endif
}
