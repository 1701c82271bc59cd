#include "cli/new_plugin.h"

#include <algorithm>
#include <map>

#include "base/embedded.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "tenon/error.h"

namespace tenon::host {

namespace fs = std::filesystem;

namespace {

std::vector<std::string> kinds() { return {"quantizer", "patch", "adapter", "architecture", "objective"}; }

std::vector<std::string> tiers_of(const std::string& kind) {
  std::vector<std::string> tiers;
  for (const char* tier : {"stable", "native"}) {
    const std::string folder = kind == "quantizer" ? kind + "_" + tier : std::string(tier) == "native" ? kind : "";
    if (std::any_of(template_files().begin(), template_files().end(), [&](const EmbeddedFile& file) { return folder == file.folder; }))
      tiers.emplace_back(tier);
  }
  return tiers;
}

void check_name(const std::string& name, const std::string& kind, const SearchPath& search) {
  const bool is_word = !name.empty() && name.size() <= 40 && name[0] >= 'a' && name[0] <= 'z' &&
                       name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string::npos;
  if (!is_word)
    fail(ErrorCode::Usage, "'", name, "' cannot be the name: small letters, digits and '_' make one, a letter first, as in my_", kind);
  // As CMake's targets, or as classes that the headers have already: Quantizer, Tensor.
  static const std::vector<std::string> taken = {
      "all",    "clean",     "depend", "edit_cache", "help",         "install",   "package",   "rebuild_cache", "test",
      "tenon",  "quantizer", "patch",  "adapter",    "architecture", "objective", "tensor",    "tensors",       "model",
      "config", "filler",    "slot",   "state",      "cache",        "batch",     "blueprint", "seam",          "seams",
      "value",  "parts",     "error",  "device",     "registrar",    "provider",  "observer",  "scaled",        "source"};
  if (std::find(taken.begin(), taken.end(), name) != taken.end())
    fail(ErrorCode::Usage, "'", name, "' cannot be the name: CMake or tenon's headers use it themselves, choose another, as in my_", name);
  for (const auto& file : discover_plugins(search, {}).files)
    if (file.origin == "bundled" || file.origin == "built-in")
      for (const auto& provides : file.provides)
        if (provides.kind == kind && provides.name == name)
          fail(ErrorCode::Usage, "the name '", name, "' is reserved for the ", kind, " that comes with the host: choose another, as in my_",
               name);
}

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) text.replace(at, from.size(), to);
}

// The templates are written for a plugin called "mine".
std::string renamed(std::string text, const std::string& name) {
  std::string pascal, upper;
  for (const auto& part : split(name, '_'))
    if (!part.empty()) pascal += static_cast<char>(std::toupper(part[0])) + part.substr(1);
  for (const char c : name) upper += static_cast<char>(std::toupper(c));
  // Marks first: a name may hold "mine" itself.
  replace_all(text, "mine", "\x01");
  replace_all(text, "Mine", "\x02");
  replace_all(text, "MINE", "\x03");
  replace_all(text, "\x01", name);
  replace_all(text, "\x02", pascal);
  replace_all(text, "\x03", upper);
  return text;
}

// Where CMake finds tenon; empty when this host runs from a build tree.
std::string installed_prefix() {
  const fs::path prefix = fs::canonical("/proc/self/exe").parent_path().parent_path();
  return fs::exists(prefix / "lib/cmake/tenon/tenon-config.cmake") ? prefix.string() : "";
}

}  // namespace

std::string new_plugin(const Args& args, const std::string& kind, const std::string& name) {
  const auto all = kinds();
  if (std::find(all.begin(), all.end(), kind) == all.end())
    fail(ErrorCode::Usage, "there is no template for '", kind, "', there are: ", join(all, ", "), did_you_mean(kind, all));
  check_name(name, kind, args.search);
  const auto tiers = tiers_of(kind);
  const std::string tier = args.get<std::string>("tier").value_or(tiers.at(0));
  if (tier != "stable" && tier != "native") fail(ErrorCode::Usage, "--tier: '", tier, "' is no tier, they are stable and native");
  if (std::find(tiers.begin(), tiers.end(), tier) == tiers.end())
    fail(ErrorCode::Usage, "--tier ", tier, ": a plugin of kind ", kind, " is ", join(tiers, " or "), " (docs/plugins/README.md says why)");

  const fs::path folder = args.get<std::string>("to").value_or(name);
  std::error_code error;
  if (fs::exists(folder, error) && !fs::is_empty(folder, error))
    fail(ErrorCode::Usage, "'", folder.string(), "' is there already: remove it, or name another folder with --to");
  const std::string prefix = installed_prefix(), own = kind == "quantizer" ? kind + "_" + tier : kind;
  std::map<std::string, std::string> files;
  // A kind's own file stands in for the common one.
  for (const std::string& source : {std::string("common"), own})
    for (const auto& file : template_files())
      if (source == file.folder) files[renamed(file.path, name)] = renamed(file.text, name);
  std::vector<std::string> written;
  for (auto& [path, text] : files) {
    if (!prefix.empty()) replace_all(text, "/path/to/tenon", prefix);
    fs::create_directories((folder / path).parent_path());
    write_file(folder / path, text);
    written.push_back(path);
  }
  if (args.json) {
    Value value = Value::table();
    value.set("folder", folder.string()), value.set("kind", kind), value.set("tier", tier), value.set("files", written);
    return to_json(value, 2) + "\n";
  }
  return concat("wrote ", folder.string(), ": ", join(written, ", "), "\n",
                prefix.empty() ? "this host is not installed: cmake --install build --prefix /path/to/tenon comes first\n" : "",
                "next:\n  cd ", folder.string(), "\n  cmake -S . -B build -DCMAKE_PREFIX_PATH=", prefix.empty() ? "/path/to/tenon" : prefix,
                " -DCMAKE_BUILD_TYPE=Release\n  cmake --build build\n  ctest --test-dir build --output-on-failure\n  host run recipe.toml "
                "--plugin build/lib",
                name, ".so\n");
}

}  // namespace tenon::host
