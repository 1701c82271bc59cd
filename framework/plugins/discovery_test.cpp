#include "plugins/discovery.h"

#include <sys/stat.h>

#include <cstdlib>

#include "base/file.h"
#include "plugins/permissions.h"
#include "support/paths.h"
#include "support/temp_dir.h"
#include "tenon/error.h"

#include <doctest/doctest.h>

namespace fs = std::filesystem;
using namespace tenon;
using namespace tenon::host;
using tenon::testing::bad_plugin;

namespace {

// A folder of plugins that nobody else can write to, whatever the umask.
struct Folder : testing::TempDir {
  Folder() { ::chmod(path().c_str(), 0755); }
  fs::path add(const fs::path& file, const std::string& name) const {
    const fs::path target = path() / name;
    fs::copy_file(file, target);
    ::chmod(target.c_str(), 0644);
    return target;
  }
};

// Files of the search that lie in a folder.
std::vector<PluginFile> found_in(const fs::path& folder, SearchPath search) {
  std::vector<PluginFile> files;
  for (auto& file : discover_plugins(search).files)
    if (file.path.parent_path() == folder) files.push_back(file);
  return files;
}
std::vector<PluginFile> found_in(const Folder& folder) {
  return found_in(folder.path(), {.plugin_dirs = {folder.path()}, .plugin_files = {}, .bundled_only = false});
}

bool has_reason(const PluginFile& file, const std::string& part) {
  for (const auto& reason : file.reasons)
    if (reason.find(part) != std::string::npos) return true;
  return false;
}

}  // namespace

TEST_CASE("a folder's libraries are found in the order of their names, other files are not looked at") {
  const Folder folder;
  folder.add(bad_plugin("same_name"), "b.so");
  folder.add(bad_plugin("good"), "a.so");
  folder.write("notes.txt", "x");
  folder.write(".hidden.so", "x");
  const auto files = found_in(folder);
  REQUIRE(files.size() == 2);
  CHECK(files[0].id() == "org.example.good");
  CHECK(files[0].state == PluginState::Available);
  CHECK(files[0].origin == "--plugin-dir");
  CHECK(files[1].state == PluginState::Available);
}

TEST_CASE("what is no plugin is rejected with the reason, and never crashes the search") {
  const Folder folder;
  const std::string good = read_file(bad_plugin("good"));
  ::chmod(folder.write("empty.so", "").c_str(), 0644);
  ::chmod(folder.write("text.so", "#!/bin/sh\n").c_str(), 0644);
  ::chmod(folder.write("cut.so", good.substr(0, good.size() / 2)).c_str(), 0644);
  folder.add(testing::build_dir() / "lib" / "libtenon.so", "other.so");
  fs::create_directory(folder.path() / "folder.so");
  fs::create_symlink("nowhere", folder.path() / "dangling.so");
  REQUIRE(::mkfifo((folder.path() / "pipe.so").c_str(), 0644) == 0);  // nobody writes to it: an open that waits would wait forever
  const auto files = found_in(folder);
  REQUIRE(files.size() == 7);
  for (const auto& file : files) {
    CHECK(file.state == PluginState::Rejected);
    CHECK_FALSE(file.reasons.empty());
  }
  CHECK(has_reason(files[0], "damaged or cut off"));  // cut
  CHECK(has_reason(files[1], "No such file"));        // dangling
  CHECK(has_reason(files[2], "not an ELF file"));     // empty
  CHECK(has_reason(files[3], "it is a folder"));      // folder
  // Of a static build the library holds all the bundled ones.
  CHECK((has_reason(files[4], "it has no section .tenonplugin") || has_reason(files[4], "it holds two manifests")));
  CHECK(has_reason(files[5], "it is not a regular file"));  // pipe
  CHECK(has_reason(files[6], "not an ELF file"));
}

TEST_CASE("files and folders that others can write to are rejected, with the command that helps") {
  const Folder folder;
  const fs::path file = folder.add(bad_plugin("good"), "a.so");
  CHECK(found_in(folder)[0].state == PluginState::Available);
  ::chmod(file.c_str(), 0666);
  CHECK(has_reason(found_in(folder)[0], "can be written to by everyone: chmod o-w"));
  ::chmod(file.c_str(), 0664);
  CHECK(has_reason(found_in(folder)[0], "can be written to by its group: chmod g-w"));
  ::chmod(file.c_str(), 0644);
  ::chmod(folder.path().c_str(), 0777);
  CHECK(has_reason(found_in(folder)[0], "its folder"));
  ::chmod(folder.path().c_str(), 0775);
  CHECK(found_in(folder)[0].state == PluginState::Rejected);
  ::chmod(folder.path().c_str(), 01777);  // sticky, like /tmp: what is ours stays ours
  CHECK(found_in(folder)[0].state == PluginState::Available);
  ::chmod(folder.path().c_str(), 0755);
  if (::geteuid() == 0) {
    REQUIRE(::chown(file.c_str(), 12345, 0) == 0);
    CHECK(has_reason(found_in(folder)[0], "belongs to user 12345, not to you or root"));
    CHECK_FALSE(permission_problem(file, Trust::Bundled).empty());
  } else {
    MESSAGE("SKIP: only root can give a file to another owner");
  }
}

TEST_CASE("the same file twice, and an id twice, are listed as shadowed") {
  const Folder first, second;
  const fs::path file = first.add(bad_plugin("good"), "a.so");
  first.add(bad_plugin("good"), "copy.so");
  fs::create_hard_link(file, second.path() / "link.so");
  const SearchPath search{.plugin_dirs = {first.path(), second.path()}, .plugin_files = {}, .bundled_only = false};
  const auto one = found_in(first.path(), search), two = found_in(second.path(), search);
  REQUIRE(one.size() == 2);
  REQUIRE(two.size() == 1);
  CHECK(one[0].state == PluginState::Available);
  CHECK(one[1].state == PluginState::Shadowed);
  CHECK(has_reason(one[1], "its id org.example.good is that of " + file.string()));
  CHECK(two[0].state == PluginState::Shadowed);
  CHECK(has_reason(two[0], "the same file as " + file.string()));
}

TEST_CASE("names of bundled plugins are reserved") {
  const auto bundled = discover_plugins({.plugin_dirs = {}, .plugin_files = {}, .bundled_only = true}).files;
  const auto taken = std::find_if(bundled.begin(), bundled.end(),
                                  [](const PluginFile& f) { return f.state == PluginState::Available && !f.provides.empty(); });
  if (taken == bundled.end()) {
    MESSAGE("SKIP: no bundled plugin is built");
    return;
  }
  // The good plugin under the id and name of a stranger who wants to stand in for a bundled one.
  const Folder folder;
  std::string bytes = read_file(bad_plugin("good"));
  Manifest* manifest = reinterpret_cast<Manifest*>(bytes.data() + bytes.find(std::string(kManifestMagic, sizeof kManifestMagic)));
  const std::string row = taken->provides[0].kind + ":" + taken->provides[0].name;
  std::fill(std::begin(manifest->provides[0]), std::end(manifest->provides[0]), '\0');
  std::copy(row.begin(), row.end(), manifest->provides[0]);
  ::chmod(folder.write("a.so", bytes).c_str(), 0644);
  const auto files = found_in(folder);
  REQUIRE(files.size() == 1);
  CHECK(files[0].state == PluginState::Rejected);
  CHECK(has_reason(files[0], "a name reserved for the bundled " + taken->path.filename().string()));
}

TEST_CASE("the search path is what was named, never the working directory") {
  const Folder folder, user;
  folder.add(bad_plugin("good"), "a.so");
  fs::create_directories(user.path() / "tenon" / "plugins");
  fs::copy_file(bad_plugin("no_entry"), user.path() / "tenon" / "plugins" / "u.so");
  ::setenv("XDG_DATA_HOME", user.path().c_str(), 1);
  ::setenv("TENON_PLUGIN_PATH", (".:relative::" + folder.path().string()).c_str(), 1);
  const fs::path before = fs::current_path();
  fs::current_path(folder.path());
  const auto folders = plugin_folders({});
  fs::current_path(before);
  REQUIRE(folders.size() == 3);
  CHECK(folders[0].origin == "bundled");
  CHECK(folders[0].path == fs::canonical(testing::build_dir()) / "lib" / "tenon" / "plugins");
  CHECK(folders[1].path == user.path() / "tenon" / "plugins");
  CHECK(folders[2].path == folder.path());
  CHECK(found_in(folder.path(), {}).size() == 1);
  CHECK(found_in(user.path() / "tenon" / "plugins", {}).size() == 1);
  CHECK(found_in(folder.path(), {.plugin_dirs = {}, .plugin_files = {}, .bundled_only = true}).empty());
  ::unsetenv("TENON_PLUGIN_PATH");
  ::unsetenv("XDG_DATA_HOME");
  CHECK_THROWS_WITH_AS(discover_plugins({.plugin_dirs = {folder.path() / "none"}, .plugin_files = {}, .bundled_only = false}),
                       doctest::Contains("is no folder"), Error);
  CHECK_THROWS_WITH_AS(discover_plugins({.plugin_dirs = {}, .plugin_files = {folder.path() / "none.so"}, .bundled_only = false}),
                       doctest::Contains("there is no file"), Error);
}
