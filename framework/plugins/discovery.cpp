#include "plugins/discovery.h"

#include <dlfcn.h>
#include <link.h>
#include <pwd.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include "base/file.h"
#include "base/sha256.h"
#include "base/text.h"
#include "plugins/manifest_reader.h"
#include "plugins/overrides.h"
#include "plugins/permissions.h"
#include "tenon/error.h"

namespace tenon::host {

namespace fs = std::filesystem;

namespace {

// The file that this code lies in: `host`, or libtenon.so in whatever program.
fs::path own_file() {
  static const int here = 0;
  Dl_info info{};
  link_map* map = nullptr;
  std::error_code error;
  if (::dladdr1(&here, &info, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) != 0 && map && map->l_name && map->l_name[0] != '\0')
    return fs::canonical(map->l_name, error);
  return fs::canonical("/proc/self/exe", error);
}

bool raised_privileges() { return ::getauxval(AT_SECURE) != 0; }

fs::path user_folder() {
  const char* data = ::secure_getenv("XDG_DATA_HOME");
  if (data && data[0] == '/') return fs::path(data) / "tenon" / "plugins";
  const char* home = ::secure_getenv("HOME");
  if (home && home[0] == '/') return fs::path(home) / ".local" / "share" / "tenon" / "plugins";
  return {};
}

class Search {
 public:
  Search(Discovery& found, const std::vector<Override>& overrides) : found_(found), overrides_(overrides) {}

  // Plugins that are linked into the library: a static build. Only its manifests are read.
  void add_builtin(const fs::path& library) {
    std::error_code error;
    if (!fs::exists(library, error)) return;
    const MappedFile file(library);
    std::vector<ManifestReading> readings = read_builtin_manifests(file.bytes());
    // The linker's order is nobody's; this is that of their files where they are files.
    auto id = [](const ManifestReading& r) { return r.manifest ? std::string_view(r.manifest->id) : std::string_view(); };
    std::stable_sort(readings.begin(), readings.end(), [&](const auto& a, const auto& b) { return id(a) < id(b); });
    for (auto& reading : readings) {
      PluginFile plugin;
      plugin.path = library;
      plugin.origin = "built-in";
      plugin.manifest = reading.manifest;
      for (auto& problem : reading.problems) reject(plugin, std::move(problem));
      if (plugin.manifest) judge(plugin);
      if (plugin.state == PluginState::Available) check_names(plugin);
      found_.files.push_back(std::move(plugin));
    }
  }

  void add_folder(const fs::path& folder, const std::string& origin) {
    std::error_code error;
    std::vector<fs::path> files;
    for (auto it = fs::directory_iterator(folder, error); !error && it != fs::directory_iterator(); it.increment(error))
      if (it->path().extension() == ".so" && it->path().filename().string()[0] != '.') files.push_back(it->path());
    std::sort(files.begin(), files.end());
    for (const auto& file : files) add_file(file, origin);
  }

  void add_file(const fs::path& file, const std::string& origin) {
    PluginFile plugin;
    std::error_code error;
    plugin.path = fs::canonical(file, error);
    if (error) plugin.path = fs::absolute(file);
    plugin.origin = origin;
    struct stat info {};
    if (::stat(plugin.path.c_str(), &info) == 0) {
      const auto [place, is_new] = files_.try_emplace({info.st_dev, info.st_ino}, plugin.path);
      if (!is_new) {
        plugin.state = PluginState::Shadowed;
        plugin.reasons.push_back("the same file as " + place->second.string());
      }
    }
    read(plugin);
    if (plugin.state == PluginState::Available) check_names(plugin);
    found_.files.push_back(std::move(plugin));
  }

 private:
  static void reject(PluginFile& plugin, std::string reason) {
    plugin.state = PluginState::Rejected;
    plugin.reasons.push_back(std::move(reason));
  }

  static void judge(PluginFile& plugin) {
    std::vector<std::string> problems = manifest_mismatches(*plugin.manifest);
    plugin.provides = read_provides(*plugin.manifest, problems);
    for (auto& problem : problems) reject(plugin, std::move(problem));
  }

  static std::string policy_problem(const PluginFile& plugin, const PluginPolicy& policy) {
    if (policy.mode == PluginMode::Bundled)
      return concat("the plugin mode is bundled (", policy.set_by, "): nothing but what came with the host is used");
    if (policy.mode != PluginMode::Pinned) return "";
    const PluginPin* pin = policy.find(plugin.id());
    if (!pin)
      return concat("the plugin mode is pinned (", policy.set_by, ") and it is not pinned: host plugins pin ", plugin.path.string(),
                    ", if you trust it");
    std::string now;
    try {
      now = sha256_file(plugin.path);
    } catch (const Error& error) {
      return error.what();
    }
    if (now == pin->sha256) return "";
    return concat("its bytes are not those that were pinned (sha256 ", pin->sha256.substr(0, 12), "... then, ", now.substr(0, 12),
                  "... now): host plugins pin ", plugin.path.string(), ", if the change is yours");
  }

  void read(PluginFile& plugin) const {
    const bool was_shadowed = plugin.state == PluginState::Shadowed;
    try {
      const MappedFile file(plugin.path);
      ManifestReading reading = read_manifest(file.bytes());
      plugin.manifest = reading.manifest;
      for (auto& problem : reading.problems) reject(plugin, std::move(problem));
    } catch (const Error& error) {
      reject(plugin, error.message());
    }
    if (plugin.manifest) judge(plugin);
    if (std::string problem = permission_problem(plugin.path, plugin.origin == "bundled" ? Trust::Bundled : Trust::Strict);
        !problem.empty())
      reject(plugin, std::move(problem));
    if (plugin.origin != "bundled")
      if (std::string problem = policy_problem(plugin, found_.policy); !problem.empty()) reject(plugin, std::move(problem));
    if (was_shadowed) plugin.state = PluginState::Shadowed;
  }

  // Ids are taken by the first file in search order, bundled names for good.
  void check_names(PluginFile& plugin) {
    const auto [place, is_new] = ids_.try_emplace(plugin.id(), plugin.path);
    if (!is_new) {
      plugin.state = PluginState::Shadowed;
      plugin.reasons.push_back("its id " + plugin.id() + " is that of " + place->second.string() + ", which comes first");
      return;
    }
    const bool is_bundled = plugin.origin == "bundled" || plugin.origin == "built-in";
    for (const auto& provides : plugin.provides) {
      if (is_bundled) {
        bundled_rows_.emplace_back(provides, plugin.path);
        continue;
      }
      const bool is_wanted = std::any_of(overrides_.begin(), overrides_.end(),
                                         [&](const Override& wish) { return wish.id == plugin.id() && provides.is(wish.kind, wish.name); });
      for (const auto& [row, path] : bundled_rows_)
        if (!is_wanted && row.is(provides.kind, provides.name))
          reject(plugin,
                 concat("it provides ", provides.kind, " '", provides.name, "', a name reserved for the bundled ", path.filename().string(),
                        ": give it another name, or ask for it with --override ", provides.kind, ":", provides.name, "=", plugin.id()));
    }
  }

  Discovery& found_;
  const std::vector<Override>& overrides_;
  std::map<std::pair<dev_t, ino_t>, fs::path> files_;
  std::map<std::string, fs::path> ids_;
  std::vector<std::pair<Provides, fs::path>> bundled_rows_;
};

}  // namespace

std::string Provides::attribute(const std::string& key) const {
  for (const auto& [attribute_key, value] : attributes)
    if (attribute_key == key) return value;
  return "";
}

bool Provides::is(const std::string& kind_, const std::string& name_) const {
  if (kind != kind_) return false;
  if (kind != "architecture") return name == name_;
  return std::equal(name.begin(), name.end(), name_.begin(), name_.end(),
                    [](char a, char b) { return (a == '-' ? '_' : a) == (b == '-' ? '_' : b); });
}

std::string PluginFile::id() const { return manifest ? field_text(manifest->id, sizeof manifest->id) : path.filename().string(); }

namespace {

// Where libtenon.so lies: beside this code when it is that, ../lib of the host's folder otherwise.
fs::path library_folder() {
  const fs::path own = own_file();
  const bool in_library = own.extension() == ".so" || own.filename().string().find(".so.") != std::string::npos;
  return in_library ? own.parent_path() : own.parent_path().parent_path() / "lib";
}

}  // namespace

std::vector<PluginFolder> plugin_folders(const SearchPath& search) {
  std::vector<PluginFolder> folders = {{library_folder() / "tenon" / "plugins", "bundled"}};
  if (search.bundled_only || raised_privileges()) return folders;
  if (const fs::path user = user_folder(); !user.empty()) folders.push_back({user, "user"});
  if (const char* path = ::secure_getenv("TENON_PLUGIN_PATH"))
    for (const auto& folder : split(path, ':'))
      if (!folder.empty() && folder[0] == '/') folders.push_back({folder, "TENON_PLUGIN_PATH"});
  for (const auto& folder : search.plugin_dirs) folders.push_back({fs::absolute(folder), "--plugin-dir"});
  return folders;
}

std::vector<std::string> ignored_plugin_folders() {
  std::vector<std::string> ignored;
  if (const char* path = ::secure_getenv("TENON_PLUGIN_PATH"))
    for (const auto& folder : split(path, ':'))
      if (!folder.empty() && folder[0] != '/') ignored.push_back(folder);
  return ignored;
}

Discovery discover_plugins(const SearchPath& search) {
  PluginPolicy policy = raised_privileges() ? PluginPolicy{} : read_policy();
  auto tighten = [&](const std::string& wish, const char* who) {
    if (wish.empty()) return;
    const auto mode = parse_mode(wish);
    if (!mode) fail(ErrorCode::Usage, who, ": '", wish, "' is no mode, the modes are user, pinned, bundled");
    policy.tighten(*mode, who);
  };
  tighten(search.mode, "--plugin-mode");
  tighten(search.recipe_mode, "the recipe");
  return discover_plugins(search, policy);
}

PluginFile judge_plugin(const fs::path& file, const PluginPolicy& policy) {
  Discovery found{.files = {}, .policy = policy};
  Search(found, {}).add_file(file, "not searched");
  return std::move(found.files.front());
}

Discovery discover_plugins(const SearchPath& search, const PluginPolicy& policy) {
  Discovery found{.files = {}, .policy = policy};
  const std::vector<Override> overrides = read_overrides(search.overrides);
  Search files(found, overrides);
  files.add_builtin(library_folder() / "libtenon.so");
  for (const auto& folder : plugin_folders(search)) {
    if (folder.origin == "--plugin-dir" && !fs::is_directory(folder.path))
      fail(ErrorCode::Usage, "--plugin-dir: '", folder.path.string(), "' is no folder");
    files.add_folder(folder.path, folder.origin);
  }
  if (!search.bundled_only && !raised_privileges())
    for (const auto& file : search.plugin_files) {
      if (!fs::exists(file)) fail(ErrorCode::Usage, "--plugin: there is no file '", file.string(), "'");
      files.add_file(file, "--plugin");
    }
  for (const auto& wish : overrides) apply_override(found, wish);
  return found;
}

}  // namespace tenon::host
