#include "plugins/registry.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/text.h"
#include "plugins/loader.h"
#include "plugins/manifest_reader.h"

namespace tenon::host {

namespace {

// Which list of a Registrar holds an interface, and what the manifest calls its kind.
template <class Interface>
struct KindOf;
template <>
struct KindOf<Quantizer> {
  static constexpr const char* name = "quantizer";
  static constexpr auto list = &Registrar::quantizers;
};
template <>
struct KindOf<Architecture> {
  static constexpr const char* name = "architecture";
  static constexpr auto list = &Registrar::architectures;
};
template <>
struct KindOf<Patch> {
  static constexpr const char* name = "patch";
  static constexpr auto list = &Registrar::patches;
};
template <>
struct KindOf<Adapter> {
  static constexpr const char* name = "adapter";
  static constexpr auto list = &Registrar::adapters;
};
template <>
struct KindOf<Objective> {
  static constexpr const char* name = "objective";
  static constexpr auto list = &Registrar::objectives;
};
template <>
struct KindOf<TextCodec> {
  static constexpr const char* name = "text";
  static constexpr auto list = &Registrar::text_codecs;
};

std::string reasons_text(const PluginFile& file) {
  std::string text = file.path.string() + ":";
  for (const auto& reason : file.reasons) text += "\n    - " + reason;
  return text;
}

}  // namespace

struct Registry::Impl {
  Discovery discovery;
  std::map<std::string, void (*)(Registrar*)> builtin_entries;  // by id
  std::map<std::string, std::unique_ptr<Registrar>> loaded;     // by id
  std::map<std::string, std::unique_ptr<MappedFile>>
      files;  // their bytes as they were when loaded: a file may be exchanged under a long run
  std::recursive_mutex mutex;

  // Available files that provide a name; two of them contradict each other.
  std::vector<const PluginFile*> providing(const std::string& kind, const std::string& name,
                                           PluginState state = PluginState::Available) const {
    std::vector<const PluginFile*> found;
    for (const auto& file : discovery.files)
      if (file.state == state && std::any_of(file.provides.begin(), file.provides.end(),
                                             [&](const Provides& p) { return p.is(kind, name) && p.overridden_by.empty(); }))
        found.push_back(&file);
    return found;
  }

  std::vector<std::string> names(const std::string& kind, const std::string& key = "", const std::string& value = "") const {
    std::vector<std::string> all;
    for (const auto& file : discovery.files)
      for (const auto& provides : file.provides)
        // What an overridden one can do says nothing of its stand-in; that its name is the default is the name's own.
        if (file.state == PluginState::Available && provides.kind == kind && (provides.overridden_by.empty() || key == "default") &&
            (key.empty() || provides.attribute(key) == value) && std::find(all.begin(), all.end(), provides.name) == all.end())
          all.push_back(provides.name);
    return all;
  }

  [[noreturn]] void fail_unknown(const std::string& kind, const std::string& name) const {
    const auto all = names(kind);
    std::string text = concat("there is no ", kind, " '", name, "'", did_you_mean(name, all));
    if (nearest(name, all, 1).empty()) text += all.empty() ? ": no plugin here provides any" : ", there are: " + join(all, ", ");
    for (const auto* file : providing(kind, name, PluginState::Rejected))
      text += "\n  it is provided by a plugin that was refused, " + reasons_text(*file);
    // Here the name is a checkpoint's, not a recipe's: no other spelling of it would do.
    if (kind == KindOf<Architecture>::name)
      text += concat("\n  a model of this type needs a plugin that provides '", kind, ":", name, "': `host plugins new ", kind,
                     " NAME` begins one");
    throw Error(ErrorCode::Plugin, text);
  }

  const PluginFile& file_for(const std::string& kind, const std::string& name) const {
    const auto found = providing(kind, name);
    if (found.empty()) fail_unknown(kind, name);
    if (found.size() > 1)
      fail(ErrorCode::Plugin, "two plugins provide ", kind, " '", name, "': ", found[0]->path.string(), " and ", found[1]->path.string(),
           ": choose with --override ", kind, ":", name, "=", found[0]->id(), " or =", found[1]->id(), ", or keep one of them");
    return *found.front();
  }

  // Whether the file that is taken instead of a shadowed one is just the same.
  bool stands_in_for(const PluginFile& shadowed) const {
    for (const auto& file : discovery.files)
      if (file.state == PluginState::Available && file.id() == shadowed.id() && file.origin != "built-in")
        return file.path == shadowed.path || sha256_file(file.path) == sha256_file(shadowed.path);
    return false;
  }

  Registrar& load(const PluginFile& file) {
    const std::string id = file.id();
    auto& slot = loaded[id];
    if (!slot) {
      const auto entry = builtin_entries.find(id);
      if (file.origin != "built-in") files[id] = std::make_unique<MappedFile>(file.path);
      slot = register_plugin(file, entry != builtin_entries.end() ? PluginEntry(entry->second) : open_plugin(file));
      log_debug(concat("plugin ", id, " loaded from ", file.origin == "built-in" ? "this program" : file.path.string()));
    }
    return *slot;
  }

  template <class Interface>
  const Provider<Interface>& find(const std::string& name) {
    std::lock_guard lock(mutex);
    constexpr const char* kind = KindOf<Interface>::name;
    auto& providers = load(file_for(kind, name)).*KindOf<Interface>::list;
    for (const auto& provider : providers)
      if (Provides{kind, provider.name, {}}.is(kind, name)) return provider;
    fail_unknown(kind, name);
  }
};

Registry::Registry(Discovery discovery)
    : impl_(new Impl{.discovery = std::move(discovery), .builtin_entries = {}, .loaded = {}, .mutex = {}}) {
  for (const auto& file : impl_->discovery.files)
    if (file.origin == "--plugin" && file.state == PluginState::Rejected)
      fail(ErrorCode::Plugin, "--plugin cannot be used, ", reasons_text(file));
    else if (file.origin == "--plugin" && file.state == PluginState::Shadowed && !impl_->stands_in_for(file))
      fail(ErrorCode::Plugin, "--plugin cannot be used, ", reasons_text(file),
           "\n    that one has other bytes: remove it from its folder, or give this one an id of its own");
}

Registry::~Registry() = default;

void Registry::add_builtin(const Manifest& manifest, void (*entry)(Registrar*)) {
  std::lock_guard lock(impl_->mutex);
  PluginFile plugin;
  plugin.manifest = manifest;
  plugin.origin = "built-in";
  plugin.provides = read_provides(manifest, plugin.reasons);
  if (!plugin.reasons.empty()) plugin.state = PluginState::Rejected;
  for (auto& file : impl_->discovery.files)
    if (file.id() == plugin.id() && file.state == PluginState::Available) {
      file.state = PluginState::Shadowed;
      file.reasons.push_back("its id " + plugin.id() + " is built into this program");
    }
  impl_->builtin_entries[plugin.id()] = entry;
  impl_->discovery.files.insert(impl_->discovery.files.begin(), std::move(plugin));
}

const Provider<Quantizer>& Registry::quantizer(const std::string& name) { return impl_->find<Quantizer>(name); }
const Provider<Architecture>& Registry::architecture(const std::string& model_type) { return impl_->find<Architecture>(model_type); }
const Provider<Patch>& Registry::patch(const std::string& name) { return impl_->find<Patch>(name); }
const Provider<Adapter>& Registry::adapter(const std::string& name) { return impl_->find<Adapter>(name); }
const Provider<Objective>& Registry::objective(const std::string& name) {
  return impl_->find<Objective>(name.empty() ? default_name("objective") : name);
}
const Provider<TextCodec>& Registry::text_codec(const std::string& name) {
  return impl_->find<TextCodec>(name.empty() ? default_name("text") : name);
}

std::string Registry::default_name(const std::string& kind) const {
  const auto defaults = impl_->names(kind, "default", "yes");
  if (!defaults.empty()) return defaults.front();
  const auto all = impl_->names(kind);
  fail(ErrorCode::Plugin, "the recipe names no ", kind, " plugin and none here calls itself the default",
       all.empty() ? ": no plugin provides any" : ", there are: " + join(all, ", "));
}

std::string Registry::plugin_of(const std::string& kind, const std::string& name) const {
  const auto found = impl_->providing(kind, name);
  return found.empty() ? "" : found.front()->id();
}

std::vector<std::string> Registry::names(const std::string& kind) const { return impl_->names(kind); }

std::vector<std::string> Registry::names_with(const std::string& kind, const std::string& key, const std::string& value) const {
  return impl_->names(kind, key, value);
}

std::string Registry::owner_of_option(const std::string& option, const std::string& owner) {
  std::lock_guard lock(impl_->mutex);
  std::string found;
  auto look = [&](const auto& providers, const char* kind) {
    for (const auto& provider : providers)
      for (const auto& row : provider.options.rows)
        if (found.empty() && row.name == option && concat(kind, " ", provider.name) != owner) found = concat(kind, " ", provider.name);
  };
  for (const auto& file : impl_->discovery.files) {
    if (file.state != PluginState::Available || !found.empty()) continue;
    try {
      const Registrar& all = impl_->load(file);
      look(all.quantizers, "quantizer");
      look(all.patches, "patch");
      look(all.adapters, "adapter");
      look(all.objectives, "objective");
      look(all.text_codecs, "text");
    } catch (const Error&) {
      // A plugin that fails to load owns nothing; whoever asks for it by name is told why.
    }
  }
  return found;
}

Value Registry::loaded() const {
  std::lock_guard lock(impl_->mutex);
  Value list = Value::list();
  for (const auto& file : impl_->discovery.files) {
    const auto found = impl_->loaded.find(file.id());
    if (file.state != PluginState::Available || found == impl_->loaded.end() || !found->second) continue;
    Value entry = Value::table();
    entry.set("id", file.id());
    entry.set("version", field_text(file.manifest->version, sizeof file.manifest->version));
    if (const auto bytes = impl_->files.find(file.id()); bytes != impl_->files.end()) {
      Sha256 hash;
      hash.update(bytes->second->bytes());
      entry.set("sha256", hash.hex());
    }
    list.as_list().push_back(std::move(entry));
  }
  return list;
}

const Discovery& Registry::discovery() const { return impl_->discovery; }

}  // namespace tenon::host
