#include "plugins/registry.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

#include "base/log.h"
#include "base/sha256.h"
#include "base/text.h"
#include "plugins/loader.h"
#include "plugins/manifest_reader.h"
#include "plugins/stable_quantizer.h"
#include "plugins/static_plugins.h"

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

// model_type is spelled with '-' and with '_'.
std::string normal(const std::string& kind, std::string name) {
  if (kind == "architecture") std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

std::string reasons_text(const PluginFile& file) {
  std::string text = file.path.string() + ":";
  for (const auto& reason : file.reasons) text += "\n    - " + reason;
  return text;
}

}  // namespace

namespace {

// Of a plugin that discovery found in libtenon.so.
PluginEntry linked_entry(const std::string& id) {
  for (const auto& plugin : static_plugins()) {
    if (field_text(plugin.manifest->id, sizeof plugin.manifest->id) != id) continue;
    if (plugin.entry) return plugin.entry;
    return [entry = plugin.stable_entry, id](Registrar* registrar) { register_stable_plugin(id, entry, *registrar); };
  }
  fail(ErrorCode::Internal, "plugin ", id, " is in the list of libtenon.so, but not in its code");
}

}  // namespace

struct Registry::Impl {
  Discovery discovery;
  std::map<std::string, void (*)(Registrar*)> builtin_entries;  // by id
  std::map<std::string, std::unique_ptr<Registrar>> loaded;     // by id
  std::recursive_mutex mutex;

  // Available files that provide a name; two of them contradict each other.
  std::vector<const PluginFile*> providing(const std::string& kind, const std::string& name,
                                           PluginState state = PluginState::Available) const {
    std::vector<const PluginFile*> found;
    for (const auto& file : discovery.files)
      if (file.state == state && std::any_of(file.provides.begin(), file.provides.end(), [&](const Provides& p) {
            return p.kind == kind && normal(kind, p.name) == normal(kind, name);
          }))
        found.push_back(&file);
    return found;
  }

  std::vector<std::string> names(const std::string& kind, const std::string& key = "", const std::string& value = "") const {
    std::vector<std::string> all;
    for (const auto& file : discovery.files)
      for (const auto& provides : file.provides)
        if (file.state == PluginState::Available && provides.kind == kind && (key.empty() || provides.attribute(key) == value) &&
            std::find(all.begin(), all.end(), provides.name) == all.end())
          all.push_back(provides.name);
    return all;
  }

  [[noreturn]] void fail_unknown(const std::string& kind, const std::string& name) const {
    const auto all = names(kind);
    std::string text = concat("there is no ", kind, " '", name, "'", did_you_mean(name, all));
    if (nearest(name, all, 1).empty()) text += all.empty() ? ": no plugin here provides any" : ", there are: " + join(all, ", ");
    for (const auto* file : providing(kind, name, PluginState::Rejected))
      text += "\n  it is provided by a plugin that was refused, " + reasons_text(*file);
    throw Error(ErrorCode::Plugin, text);
  }

  const PluginFile& file_for(const std::string& kind, const std::string& name) const {
    const auto found = providing(kind, name);
    if (found.empty()) fail_unknown(kind, name);
    if (found.size() > 1)
      fail(ErrorCode::Plugin, "two plugins provide ", kind, " '", name, "': ", found[0]->path.string(), " and ", found[1]->path.string(),
           ": keep one of them, or give one another name");
    return *found.front();
  }

  Registrar& load(const PluginFile& file) {
    const std::string id = file.id();
    auto& slot = loaded[id];
    if (!slot) {
      const auto entry = builtin_entries.find(id);
      slot = register_plugin(file, entry != builtin_entries.end() ? PluginEntry(entry->second)
                                   : file.origin == "built-in"    ? linked_entry(id)
                                                                  : open_plugin(file));
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
      if (normal(kind, provider.name) == normal(kind, name)) return provider;
    fail_unknown(kind, name);
  }
};

Registry::Registry(Discovery discovery)
    : impl_(new Impl{.discovery = std::move(discovery), .builtin_entries = {}, .loaded = {}, .mutex = {}}) {
  for (const auto& file : impl_->discovery.files)
    if (file.origin == "--plugin" && file.state == PluginState::Rejected)
      fail(ErrorCode::Plugin, "--plugin cannot be used, ", reasons_text(file));
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
    if (file.origin != "built-in") entry.set("sha256", sha256_file(file.path));
    list.as_list().push_back(std::move(entry));
  }
  return list;
}

const Discovery& Registry::discovery() const { return impl_->discovery; }

}  // namespace tenon::host
