#include "plugins/registry.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "support/errors.h"
#include "support/paths.h"
#include "support/temp_dir.h"
#include "tenon/log.h"

#include <doctest/doctest.h>

namespace fs = std::filesystem;
using namespace tenon;
using namespace tenon::host;
using tenon::testing::bad_plugin;
using tenon::testing::contains;

namespace {

Discovery with(std::vector<fs::path> files) {
  return discover_plugins({.plugin_dirs = {}, .plugin_files = std::move(files), .bundled_only = false});
}

std::string failure(Registry& registry, const std::string& patch) {
  try {
    registry.patch(patch).make(Value::table());
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::Plugin);
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a plugin is loaded when it is asked for, once") {
  Registry registry(with({bad_plugin("good")}));
  CHECK(registry.loaded().as_list().empty());
  const auto& provider = registry.patch("good_patch");
  CHECK(provider.summary == "Sets a key.");
  CHECK(&provider == &registry.patch("good_patch"));
  Value config = Value::table();
  CHECK(provider.make(Value(Value::Table{{"strength", 3}}))->on_config(config));
  CHECK(config.at("strength").as_int() == 3);
  REQUIRE(registry.loaded().as_list().size() == 1);
  const Value entry = registry.loaded().as_list()[0];
  CHECK(entry.at("id").as_string() == "org.example.good");
  CHECK(entry.at("version").as_string() == "1.2.3");
  CHECK(entry.at("sha256").as_string() == sha256_file(bad_plugin("good")));
  CHECK(registry.plugin_of("patch", "good_patch") == "org.example.good");
  CHECK(registry.names_with("patch", "stage", "config") == std::vector<std::string>{"good_patch"});
  CHECK(registry.names_with("patch", "stage", "model").empty());
}

TEST_CASE("a run records the bytes that were loaded, even if the file is exchanged while it runs") {
  const testing::TempDir dir;
  ::chmod(dir.path().c_str(), 0755);
  const fs::path file = dir.path() / "libgood.so";
  fs::copy_file(bad_plugin("good"), file);
  ::chmod(file.c_str(), 0644);
  const std::string before = sha256_file(file);
  Registry registry(with({file}));
  registry.patch("good_patch");
  write_file(file, "another build");  // under the same name, as installing does
  CHECK(sha256_file(file) != before);
  CHECK(registry.loaded().as_list().at(0).at("sha256").as_string() == before);
}

TEST_CASE("unknown names get the nearest ones, and refused plugins that would provide them") {
  Registry registry(with({bad_plugin("good")}));
  CHECK(contains(failure(registry, "god_patch"), "there is no patch 'god_patch', did you mean 'good_patch'?"));
  CHECK(contains(failure(registry, "zzzzzzzz"), "there are: "));
  const testing::TempDir dir;
  const fs::path copy = dir.path() / "libgood.so";
  fs::copy_file(bad_plugin("good"), copy);
  ::chmod(dir.path().c_str(), 0755);
  ::chmod(copy.c_str(), 0666);
  Registry refused(discover_plugins({.plugin_dirs = {dir.path()}, .plugin_files = {}, .bundled_only = false}));
  const std::string text = failure(refused, "good_patch");
  CHECK(contains(text, "it is provided by a plugin that was refused, " + copy.string()));
  CHECK(contains(text, "chmod o-w"));
  // Asked for by name, it is an error at once.
  CHECK_THROWS_WITH_AS(Registry(with({copy})), doctest::Contains("--plugin cannot be used"), Error);
}

TEST_CASE("a plugin asked for by its file is that file, or an error") {
  const testing::TempDir dir;
  ::chmod(dir.path().c_str(), 0755);
  const fs::path older = dir.path() / "libgood.so";
  fs::copy_file(bad_plugin("good"), older);
  ::chmod(older.c_str(), 0644);
  const SearchPath search{.plugin_dirs = {dir.path()}, .plugin_files = {bad_plugin("good")}, .bundled_only = false};
  Registry(discover_plugins(search)).patch("good_patch");  // the same bytes: no matter which
  write_file(older, read_file(older) + "another build");
  ::chmod(older.c_str(), 0644);
  CHECK_THROWS_WITH_AS(Registry(discover_plugins(search)), doctest::Contains("that one has other bytes: remove it from its folder"), Error);
}

TEST_CASE("two plugins with one name are an error that names both") {
  Registry registry(with({bad_plugin("good"), bad_plugin("same_name")}));
  const std::string text = failure(registry, "good_patch");
  CHECK(contains(text, "two plugins provide patch 'good_patch'"));
  CHECK(contains(text, bad_plugin("good").filename().string()));
  CHECK(contains(text, bad_plugin("same_name").filename().string()));
}

TEST_CASE("a registration that fails leaves nothing behind and says whose it was") {
  Registry registry(with({bad_plugin("throws_in_register"), bad_plugin("throws_an_int"), bad_plugin("promises_more"),
                          bad_plugin("registers_more"), bad_plugin("no_entry")}));
  CHECK(contains(failure(registry, "throws_in_register"), "plugin org.example.throws_in_register: register"));
  CHECK(contains(failure(registry, "throws_in_register"), "no luck today"));  // again: nothing was committed
  CHECK(contains(failure(registry, "throws_an_int"), "threw something that is no exception"));
  CHECK(contains(failure(registry, "promises_more"), "its manifest promises patch:promised, which it does not register"));
  CHECK(contains(failure(registry, "registers_more"), "it registers patch:surprise, which its manifest does not name"));
  CHECK(contains(failure(registry, "no_entry"), "it has no TENON_REGISTER"));
  CHECK(registry.loaded().as_list().empty());
}

TEST_CASE("factories that fail are errors of the plugin") {
  Registry registry(with({bad_plugin("makes_nothing")}));
  CHECK(contains(failure(registry, "makes_nothing"), "plugin org.example.makes_nothing: make makes_nothing: returned nothing"));
  CHECK(contains(failure(registry, "throws_in_make"), "plugin org.example.makes_nothing: make throws_in_make: beyond the end"));
}

TEST_CASE("a library whose manifest changed since it was read is refused") {
  const testing::TempDir dir;
  const fs::path copy = dir.path() / "libgood.so";
  fs::copy_file(bad_plugin("good"), copy);
  ::chmod(dir.path().c_str(), 0755);
  ::chmod(copy.c_str(), 0644);
  Discovery found = with({copy});
  for (auto& file : found.files)
    if (file.path == fs::canonical(copy)) file.manifest->version[0] = '9';
  Registry registry(std::move(found));
  CHECK(contains(failure(registry, "good_patch"), "was it replaced just now?"));
}

TEST_CASE("options find their owner among the plugins") {
  Registry registry(with({bad_plugin("good"), bad_plugin("throws_in_register")}));
  CHECK(registry.owner_of_option("strength", "quantizer x") == "patch good_patch");
  CHECK(registry.owner_of_option("strength", "patch good_patch").empty());
  CHECK(registry.owner_of_option("no such option", "").empty());
}

namespace {
constexpr Manifest kBuiltin =
    make_manifest({.id = "org.example.builtin", .version = "1", .provides = {"patch:built_in;default=yes"}}, Tier::Native, 0, 0);
void register_builtin(Registrar* registrar) {
  registrar->patches.push_back({"built_in", "Part of the program.", {}, [](const Value&) { return std::make_unique<Patch>(); }});
}
}  // namespace

TEST_CASE("a plugin can be part of the program") {
  Registry registry(with({}));
  registry.add_builtin(kBuiltin, register_builtin);
  CHECK(registry.patch("built_in").make(Value::table()) != nullptr);
  CHECK(registry.default_name("patch") == "built_in");
  CHECK(registry.discovery().files.front().origin == "built-in");
}

namespace {
template <int kCase>
void register_odd_options(Registrar* registrar) {
  OptionTable table;
  table.rows.resize(2);
  table.rows[0].name = kCase == 0 ? "same" : "fine-1_A", table.rows[1].name = kCase == 0 ? "same" : kCase == 1 ? "" : "a = 1\nb";
  registrar->patches.push_back({"built_in", "Odd.", table, [](const Value&) { return std::make_unique<Patch>(); }});
}
}  // namespace

TEST_CASE("options that a recipe could not name are refused with the plugin") {
  auto failure_of = [](void (*entry)(Registrar*)) {
    Registry registry(with({}));
    registry.add_builtin(kBuiltin, entry);
    return failure(registry, "built_in");
  };
  CHECK(contains(failure_of(register_odd_options<0>), "patch built_in has two rows for option 'same'"));
  CHECK(contains(failure_of(register_odd_options<1>), "an option '', which cannot be a key of a recipe"));
  CHECK(contains(failure_of(register_odd_options<2>), "letters, digits, '_' and '-' make one"));
}

TEST_CASE("errors carry the plugin's name and keep their code") {
  try {
    call_plugin("org.example.x", "quantize", "model.layers.3", [] { fail(ErrorCode::Data, "block_size 48 does not divide 14336"); });
    FAIL("should have thrown");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::Data);
    CHECK(std::string(error.what()) == "plugin org.example.x: block_size 48 does not divide 14336");
  }
}

TEST_CASE("a plugin's lines in the log carry its id, whatever the caller calls it") {
  std::vector<std::string> lines;
  set_log_sink([&](LogLevel level, std::string_view line) { lines.push_back(concat(static_cast<int>(level), " ", line)); });
  Registry registry(with({bad_plugin("good")}));
  registry.patch("good_patch");  // now the name is known to be org.example.good's
  call_plugin("good_patch", "on_config", "", [] { log::warn("2 rows are all zero"); });
  call_plugin("org.example.unknown", "on_config", "", [] { log::info("hello"); });
  log::warn("from a thread of mine");
  set_log_sink(nullptr);
  CHECK(lines == std::vector<std::string>{"1 org.example.good: 2 rows are all zero", "2 org.example.unknown: hello",
                                          "1 a plugin: from a thread of mine"});
}
