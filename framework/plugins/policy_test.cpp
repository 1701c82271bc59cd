#include "plugins/policy.h"

#include <sys/stat.h>

#include "base/sha256.h"
#include "plugins/discovery.h"
#include "support/errors.h"
#include "support/paths.h"
#include "support/temp_dir.h"
#include "tenon/error.h"

#include <doctest/doctest.h>

namespace fs = std::filesystem;
using namespace tenon;
using namespace tenon::host;
using tenon::testing::contains;

namespace {

struct Config : testing::TempDir {
  Config() { ::chmod(path().c_str(), 0755); }
  fs::path file(std::string_view text) const {
    const fs::path written = write("plugins.json", text);
    ::chmod(written.c_str(), 0600);
    return written;
  }
};

std::string problem_with(std::string_view text) {
  const Config config;
  try {
    read_policy(config.file(text));
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::Plugin);
    return error.what();
  }
  return "";
}

// The good plugin in a folder of its own, judged by a policy.
struct Judged {
  testing::TempDir folder;
  fs::path file = folder.path() / "libgood.so";
  Judged() {
    ::chmod(folder.path().c_str(), 0755);
    fs::copy_file(testing::bad_plugin("good"), file);
    ::chmod(file.c_str(), 0644);
  }
  std::string by(const PluginPolicy& policy) const {
    SearchPath search;
    search.plugin_dirs = {folder.path()};
    for (const auto& found : discover_plugins(search, policy).files)
      if (found.path == fs::canonical(file)) return found.state == PluginState::Available ? "available" : found.reasons.at(0);
    return "not found";
  }
};

}  // namespace

TEST_CASE("a policy is what was written") {
  const Config config;
  const fs::path file = config.path() / "below" / "plugins.json";
  CHECK(read_policy(file).mode == PluginMode::User);  // not there
  const std::string hash = sha256("x");
  write_policy({.mode = PluginMode::Pinned, .pins = {{"org.example.a", hash}}}, file);
  const PluginPolicy policy = read_policy(file);
  CHECK(policy.mode == PluginMode::Pinned);
  CHECK(policy.set_by == file.string());
  REQUIRE(policy.find("org.example.a"));
  CHECK(policy.find("org.example.a")->sha256 == hash);
  CHECK(policy.find("org.example.b") == nullptr);
}

TEST_CASE("a damaged policy is an error, never a looser one") {
  CHECK(problem_with(R"({"mode": "user"})").empty());
  CHECK(contains(problem_with("{"), "until it is mended or removed no plugin is used"));
  CHECK(contains(problem_with(R"({"mode": "pined"})"), "mode 'pined' is none of user, pinned, bundled, did you mean 'pinned'?"));
  CHECK(contains(problem_with(R"({"pins": {"a": "12"}})"), "the pin of a is no sha256 of 64 digits"));
  CHECK(contains(problem_with(R"({"pin": {}})"), "unknown key 'pin', the keys are mode and pins"));
  CHECK(contains(problem_with(R"({"mode": 3})"), "expected string"));
  const Config config;
  const fs::path file = config.file("{}");
  ::chmod(file.c_str(), 0666);
  CHECK_THROWS_WITH_AS(read_policy(file), doctest::Contains("can be written to by everyone"), Error);
}

TEST_CASE("a wish can only make a policy tighter") {
  PluginPolicy policy{.mode = PluginMode::Pinned, .set_by = "file"};
  CHECK_FALSE(policy.tighten(PluginMode::User, "the recipe"));
  CHECK(policy.mode == PluginMode::Pinned);
  CHECK(policy.set_by == "file");
  CHECK(policy.tighten(PluginMode::Bundled, "the recipe"));
  CHECK(policy.set_by == "the recipe");
}

TEST_CASE("pinned lets in what has been pinned, as long as its bytes are the same") {
  const Judged plugin;
  CHECK(plugin.by({}) == "available");
  CHECK(plugin.by({.mode = PluginMode::Bundled, .set_by = "x"}) ==
        "the plugin mode is bundled (x): nothing but what came with the host is used");
  PluginPolicy pinned{.mode = PluginMode::Pinned, .set_by = "x"};
  CHECK(plugin.by(pinned) ==
        "the plugin mode is pinned (x) and it is not pinned: host plugins pin " + plugin.file.string() + ", if you trust it");
  pinned.pins = {{"org.example.good", sha256_file(plugin.file)}};
  CHECK(plugin.by(pinned) == "available");
  pinned.pins = {{"org.example.good", sha256("other bytes")}};
  CHECK(contains(plugin.by(pinned), "its bytes are not those that were pinned (sha256 "));
}
