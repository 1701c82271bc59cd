#include "plugins/overrides.h"

#include <sys/stat.h>

#include "base/file.h"
#include "plugins/registry.h"
#include "support/errors.h"
#include "support/paths.h"
#include "support/temp_dir.h"

#include <doctest/doctest.h>

namespace fs = std::filesystem;
using namespace tenon;
using namespace tenon::host;
using tenon::testing::bad_plugin;
using tenon::testing::contains;
using tenon::testing::error_of;

namespace {

Discovery with(std::vector<fs::path> files, std::vector<std::string> overrides) {
  return discover_plugins({.plugin_dirs = {}, .plugin_files = std::move(files), .bundled_only = false, .overrides = std::move(overrides)});
}

}  // namespace

TEST_CASE("an override chooses between two plugins of one name, either way") {
  const std::vector<fs::path> both = {bad_plugin("good"), bad_plugin("same_name")};
  CHECK(contains(error_of([&] { Registry(with(both, {})).patch("good_patch"); }, ErrorCode::Plugin),
                 "choose with --override patch:good_patch=org.example.good or =org.example.same_name"));
  for (const std::string id : {"org.example.good", "org.example.same_name"}) {
    Registry registry(with(both, {"patch:good_patch=" + id}));
    CHECK(registry.plugin_of("patch", "good_patch") == id);
    registry.patch("good_patch");
    REQUIRE(registry.loaded().as_list().size() == 1);
    CHECK(registry.loaded().as_list()[0].at("id").as_string() == id);
    // What the other one says about the name says nothing of this one.
    CHECK(registry.names_with("patch", "stage", "config").size() == (id == "org.example.good" ? 1 : 0));
  }
}

TEST_CASE("an override lets a stranger take a bundled name, and nothing else of that plugin") {
  const auto bundled = discover_plugins({.plugin_dirs = {}, .plugin_files = {}, .bundled_only = true}).files;
  const PluginFile* taken = nullptr;
  for (const auto& file : bundled)
    for (const auto& row : file.provides)
      if (file.state == PluginState::Available && row.kind == "patch") taken = &file;
  if (!taken) {
    MESSAGE("SKIP: no bundled patch is built");
    return;
  }
  const std::string name = taken->provides[0].name, row = "patch:" + name;
  const testing::TempDir folder;
  ::chmod(folder.path().c_str(), 0755);
  std::string bytes = read_file(bad_plugin("good"));
  auto* manifest = reinterpret_cast<Manifest*>(bytes.data() + bytes.find(std::string(kManifestMagic, sizeof kManifestMagic)));
  std::fill(std::begin(manifest->provides[0]), std::end(manifest->provides[0]), '\0');
  std::copy(row.begin(), row.end(), manifest->provides[0]);
  const fs::path stranger = folder.write("a.so", bytes);
  ::chmod(stranger.c_str(), 0644);
  CHECK(contains(error_of([&] { Registry(with({stranger}, {})); }, ErrorCode::Plugin),
                 "or ask for it with --override " + row + "=org.example.good"));
  Registry registry(with({stranger}, {row + "=org.example.good"}));
  CHECK(registry.plugin_of("patch", name) == "org.example.good");
  for (const auto& file : registry.discovery().files)
    if (file.id() == taken->id()) {
      CHECK(file.state == PluginState::Available);
      CHECK(file.provides[0].overridden_by == "org.example.good");
    }
  // A name that stays the default stays it.
  CHECK(registry.default_name("objective") == Registry(with({}, {})).default_name("objective"));
}

TEST_CASE("an override that cannot be followed says why") {
  auto error = [&](const std::string& text, ErrorCode code = ErrorCode::Plugin) {
    return error_of([&] { with({bad_plugin("good")}, {text}); }, code);
  };
  for (const char* text : {"", "mine", "quantizer:mine", "quantizer=x", ":a=b", "patch:=b", "patch:a="})
    CHECK(contains(error(text, ErrorCode::Usage), "is not kind:name=id, as in quantizer:mine=org.example.mine"));
  CHECK(contains(error("pach:good_patch=org.example.good", ErrorCode::Usage), "there is no kind 'pach'"));
  CHECK(contains(error("pach:good_patch=org.example.good", ErrorCode::Usage), "did you mean 'patch'?"));
  CHECK(
      contains(error("patch:good_patch=org.example.god"), "no plugin here has the id 'org.example.god', did you mean 'org.example.good'?"));
  CHECK(contains(error("patch:god_patch=org.example.good"),
                 "org.example.good provides patch:good_patch, not patch 'god_patch', did you mean 'patch:good_patch'?"));
  CHECK(contains(error_of(
                     [&] {
                       with({bad_plugin("good")}, {"patch:good_patch=org.example.good", "patch:good_patch=org.example.x"});
                     },
                     ErrorCode::Usage),
                 "contradicts --override patch:good_patch=org.example.good"));
  const testing::TempDir folder;
  ::chmod(folder.path().c_str(), 0755);
  const fs::path copy = folder.path() / "libgood.so";
  fs::copy_file(bad_plugin("good"), copy);
  ::chmod(copy.c_str(), 0666);
  const std::string refused = error_of([&] { with({copy}, {"patch:good_patch=org.example.good"}); }, ErrorCode::Plugin);
  CHECK(contains(refused, "that plugin cannot be used, " + copy.string()));
  CHECK(contains(refused, "chmod o-w"));
}

TEST_CASE("model types are one name in both spellings") {
  const Provides row{"architecture", "some-model", {}};
  CHECK(row.is("architecture", "some_model"));
  CHECK(row.is("architecture", "some-model"));
  CHECK_FALSE(row.is("architecture", "some_models"));
  CHECK_FALSE(row.is("patch", "some-model"));
  CHECK_FALSE(Provides{"patch", "some-model", {}}.is("patch", "some_model"));
}
