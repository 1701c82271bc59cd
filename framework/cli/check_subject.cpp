#include "cli/check_subject.h"

#include <dlfcn.h>

#include <algorithm>

#include "base/file.h"
#include "base/json.h"
#include "base/options.h"
#include "model/backbones.h"
#include "model/devices.h"
#include "plugins/breadcrumb.h"
#include "plugins/loader.h"
#include "plugins/manifest_reader.h"
#include "plugins/permissions.h"
#include "plugins/registry.h"
#include "plugins/static_plugins.h"

namespace tenon::host {

namespace fs = std::filesystem;

namespace {

// Its names that bundled plugins have, but for those of its own id: a new build of a bundled plugin.
std::vector<std::string> reserved_names(const PluginFile& plugin, const std::vector<PluginFile>& bundled) {
  std::vector<std::string> problems;
  for (const auto& other : bundled) {
    if (!other.manifest || other.id() == plugin.id()) continue;
    for (const auto& theirs : other.provides)
      for (const auto& ours : plugin.provides)
        if (theirs.kind == ours.kind && theirs.name == ours.name)
          problems.push_back(concat("it provides ", ours.kind, " '", ours.name, "', a name reserved for the bundled ",
                                    other.path.filename().string(), ": give it another name"));
  }
  return problems;
}

Registry& alone(const PluginFile& plugin) {
  static auto* const registry = new Registry(Discovery{{plugin}});
  return *registry;
}

void ask(Registry& registry, const std::string& kind, const std::string& name) {
  if (kind == "quantizer") registry.quantizer(name);
  if (kind == "architecture") registry.architecture(name);
  if (kind == "patch") registry.patch(name);
  if (kind == "adapter") registry.adapter(name);
  if (kind == "objective") registry.objective(name);
  if (kind == "text") registry.text_codec(name);
}

// Of a library that is open already, or linked in.
Value examples_of(const PluginFile& plugin) {
  if (plugin.origin == "built-in") {
    for (const auto& linked : static_plugins())
      if (linked.examples && field_text(linked.manifest->id, sizeof linked.manifest->id) == plugin.id())
        return parse_json(linked.examples(), "tenon_plugin_examples");
    return {};
  }
  const fs::path& file = plugin.path;
  void* library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
  if (!library) return {};
  auto* examples = reinterpret_cast<const char* (*)()>(::dlsym(library, "tenon_plugin_examples"));
  return examples ? parse_json(examples(), "tenon_plugin_examples") : Value();
}

}  // namespace

conformance::Subject check_subject(const fs::path& file) {
  const Discovery bundled = discover_plugins({.plugin_dirs = {}, .plugin_files = {}, .bundled_only = true});
  std::error_code error;
  PluginFile plugin;
  plugin.path = fs::canonical(file, error);
  conformance::Subject subject;
  if (error || !fs::is_regular_file(plugin.path)) {
    const auto linked = std::find_if(bundled.files.begin(), bundled.files.end(),
                                     [&](const PluginFile& other) { return other.origin == "built-in" && other.id() == file; });
    if (linked == bundled.files.end()) fail(ErrorCode::Usage, "there is no file '", file.string(), "'");
    plugin.path = linked->path, plugin.manifest = linked->manifest, plugin.origin = linked->origin;
    subject.file = file;
  } else {
    plugin.origin = "--plugin";
    subject.file = plugin.path;
    const MappedFile bytes(plugin.path);
    ManifestReading reading = read_manifest(bytes.bytes());
    plugin.manifest = reading.manifest;
    subject.manifest_problems = std::move(reading.problems);
  }
  if (plugin.manifest) plugin.provides = read_provides(*plugin.manifest, subject.provides_problems);
  for (const auto& row : plugin.provides) subject.provides.push_back({row.kind, row.name, row.attributes});
  subject.manifest = plugin.manifest;

  bool is_bundled = false;
  for (const auto& other : bundled.files) is_bundled |= other.path == plugin.path;
  subject.place_problem = permission_problem(plugin.path, is_bundled ? Trust::Bundled : Trust::Strict);
  subject.reserved = reserved_names(plugin, bundled.files);
  subject.mismatches = manifest_mismatches;
  subject.open = [plugin] { return std::function<void(Registrar*)>(open_plugin(plugin)); };
  subject.ask = [plugin](const std::string& kind, const std::string& name) { ask(alone(plugin), kind, name); };
  subject.examples = [plugin] { return examples_of(plugin); };
  subject.option_problems = [](const OptionTable& table, const Value& values, const std::string& owner) {
    return check_options(table, values, owner, [](const Value&) { return ""; });
  };
  subject.guarded = [id = plugin.id()](const std::string& check, const std::string& name, const std::function<void()>& body) {
    call_plugin(id, check.c_str(), name, body);
  };
  subject.backbones = []() -> Backbones& {
    static auto* const all =
        new RegistryBackbones(*new Registry(discover_plugins({.plugin_dirs = {}, .plugin_files = {}, .bundled_only = true})));
    return *all;
  };
  subject.devices = [] {
    std::vector<at::Device> devices{at::kCPU};
    // One is like the other.
    if (const auto cuda = cuda_devices(); !cuda.empty()) devices.emplace_back(cuda.front().name);
    return devices;
  };
  return subject;
}

}  // namespace tenon::host
