#pragma once
// Runs the built `host` as a user would.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/paths.h"
#include "support/temp_dir.h"

namespace tenon::testing {

inline std::string read_text(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + file.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

struct HostResult {
  int status = 0;  // 128 + signal for a crash
  std::string out, err;
};

// environment: "NAME=value" in front of what is inherited.
inline HostResult run_host(const std::vector<std::string>& arguments, std::vector<std::string> environment = {}) {
  const TempDir folder;
  const std::string program = (build_dir() / "bin" / "host").string();
  std::vector<char*> argv = {const_cast<char*>(program.c_str())}, env;
  for (const auto& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  for (auto& variable : environment) env.push_back(variable.data());
  for (char** inherited = environ; *inherited; ++inherited) env.push_back(*inherited);
  env.push_back(nullptr);
  const std::string out = folder.path() / "stdout", err = folder.path() / "stderr";
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  ::posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  pid_t child = 0;
  const int failed = ::posix_spawn(&child, program.c_str(), &actions, nullptr, argv.data(), env.data());
  ::posix_spawn_file_actions_destroy(&actions);
  if (failed) throw std::runtime_error("cannot run " + program);
  int status = 0;
  ::waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_text(out), read_text(err)};
}

}  // namespace tenon::testing
