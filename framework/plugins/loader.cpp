#include "plugins/loader.h"

#include <dlfcn.h>

// std::filesystem in Boost.DLL's interface, so that Boost.Filesystem need not be linked.
#define BOOST_DLL_USE_STD_FS
#include <boost/dll/shared_library.hpp>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <set>

#include "base/text.h"
#include "plugins/breadcrumb.h"
#include "plugins/manifest_reader.h"
#include "plugins/stable_quantizer.h"
#include "plugins/static_plugins.h"

namespace tenon::host {

namespace {

std::set<std::string> promised(const PluginFile& file) {
  std::set<std::string> names;
  for (const auto& provides : file.provides) names.insert(provides.kind + ":" + provides.name);
  return names;
}

std::set<std::string> registered(const Registrar& registrar) {
  std::vector<std::string> names;
  auto add = [&](const auto& providers, const char* kind) {
    for (const auto& provider : providers) names.push_back(concat(kind, ":", provider.name));
  };
  add(registrar.quantizers, "quantizer");
  add(registrar.architectures, "architecture");
  add(registrar.patches, "patch");
  add(registrar.adapters, "adapter");
  add(registrar.objectives, "objective");
  add(registrar.text_codecs, "text");
  std::set<std::string> unique;
  for (const auto& name : names)
    if (!unique.insert(name).second) fail(ErrorCode::Plugin, "it registers ", name, " twice");
  return unique;
}

std::string difference(const std::set<std::string>& a, const std::set<std::string>& b) {
  std::vector<std::string> only;
  for (const auto& name : a)
    if (!b.count(name)) only.push_back(name);
  return join(only, ", ");
}

// What a recipe could not name, or would name twice.
template <class Interface>
void check_options(const std::vector<Provider<Interface>>& providers, const char* kind) {
  for (const auto& provider : providers) {
    std::set<std::string> names;
    for (const auto& row : provider.options.rows) {
      const bool is_key = !row.name.empty() && std::all_of(row.name.begin(), row.name.end(), [](unsigned char c) {
        return (c < 0x80 && std::isalnum(c)) || c == '_' || c == '-';
      });
      if (!is_key)
        fail(ErrorCode::Plugin, kind, " ", provider.name, " has an option '", row.name,
             "', which cannot be a key of a recipe: letters, digits, '_' and '-' make one");
      if (!names.insert(row.name).second) fail(ErrorCode::Plugin, kind, " ", provider.name, " has two rows for option '", row.name, "'");
    }
  }
}

void compare(const PluginFile& file, const Registrar& registrar) {
  check_options(registrar.quantizers, "quantizer");
  check_options(registrar.patches, "patch");
  check_options(registrar.adapters, "adapter");
  check_options(registrar.objectives, "objective");
  check_options(registrar.text_codecs, "text");
  const auto names = registered(registrar), promises = promised(file);
  const std::string missing = difference(promises, names), extra = difference(names, promises);
  if (!missing.empty()) fail(ErrorCode::Plugin, "its manifest promises ", missing, ", which it does not register");
  if (!extra.empty()) fail(ErrorCode::Plugin, "it registers ", extra, ", which its manifest does not name");
}

// What other interfaces get from the code that drives them (model/guards.h).
class GuardedObjective final : public Objective {
 public:
  GuardedObjective(std::string name, std::unique_ptr<Objective> objective) : name_(std::move(name)), objective_(std::move(objective)) {}
  std::string sample_kind() const override { return objective_->sample_kind(); }
  ObjectiveResult step(ObjectiveContext& context, const TrainBatch& batch) override {
    ObjectiveResult result;
    call_plugin(name_, "step", "", [&] { result = objective_->step(context, batch); });
    return result;
  }

 private:
  std::string name_;
  std::unique_ptr<Objective> objective_;
};

template <class Interface>
void guard(std::vector<Provider<Interface>>& providers, const std::string& id) {
  for (auto& provider : providers) {
    provider.make = [make = std::move(provider.make), id, name = provider.name](const auto&... arguments) {
      std::unique_ptr<Interface> made;
      call_plugin(id, "make", name, [&] { made = make(arguments...); });
      if (!made) fail(ErrorCode::Plugin, "plugin ", id, ": make ", name, ": returned nothing");
      if constexpr (std::is_same_v<Interface, Objective>) made = std::make_unique<GuardedObjective>(name, std::move(made));
      return made;
    };
  }
}

// dlerror's own words out of Boost.DLL's sentence around them.
std::string loader_words(const std::string& text) {
  static constexpr std::string_view kBefore = "dlerror system message: ", kAfter = "): ";
  const size_t begin = text.find(kBefore), end = text.rfind(kAfter);
  if (begin == std::string::npos || end == std::string::npos || end < begin + kBefore.size()) return text;
  return text.substr(begin + kBefore.size(), end - begin - kBefore.size());
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

// An exception out of a static constructor would pass through the C library's loader while that holds its locks: the process ends here instead, and the
// breadcrumb says where. The pointer is volatile because dlopen is declared to throw nothing, and the compiler would believe it.
void map_library(const std::filesystem::path& file) noexcept {
  void* (*volatile open)(const char*, int) = ::dlopen;
  open(file.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
}

}  // namespace

PluginEntry open_plugin(const PluginFile& file) {
  if (file.origin == "built-in") return linked_entry(file.id());
  using boost::dll::load_mode::type;
  const std::string where = "plugin " + file.id() + " (" + file.path.string() + "): ";
  const bool is_stable = file.manifest->tier == static_cast<uint32_t>(Tier::Stable);
  // A stable plugin names no library of LibTorch's: it finds the functions of the one that is here, once they are there for all to see.
  if (is_stable) static_cast<void>(::dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD | RTLD_GLOBAL));
  try {
    call_plugin(file.id(), "load", file.path.string(), [&] { map_library(file.path); });  // what does not map is told by the next line
    // Never unmapped (RTLD_NODELETE): the handle itself may go.
    const auto mode = static_cast<type>(RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    boost::dll::shared_library library(file.path, mode);
    const char* entry = is_stable ? "tenon_plugin_entry_v1" : "tenon_plugin_register";
    if (!library.has(entry)) fail(ErrorCode::Plugin, where, "it has no ", is_stable ? "TENON_STABLE_REGISTER" : "TENON_REGISTER");
    if (std::memcmp(&library.get<const Manifest>("tenon_plugin_manifest"), &*file.manifest, sizeof(Manifest)) != 0)
      fail(ErrorCode::Plugin, where, "its manifest in memory is not the one in the file: was it replaced just now?");
    if (is_stable) {
      tenon_plugin_entry_v1_function stable = &library.get<std::remove_pointer_t<tenon_plugin_entry_v1_function>>(entry);
      return [stable, id = file.id()](Registrar* registrar) { register_stable_plugin(id, stable, *registrar); };
    }
    return &library.get<void(Registrar*)>(entry);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    fail(ErrorCode::Plugin, where, "the system's loader says: ", loader_words(error.what()));
  }
}

std::unique_ptr<Registrar> register_plugin(const PluginFile& file, const PluginEntry& entry) {
  auto staging = std::make_unique<Registrar>();
  call_plugin(file.id(), "register", file.path.string(), [&] {
    try {
      entry(staging.get());
      compare(file, *staging);
    } catch (const Error& error) {
      // Whatever its own code: to the user it is the plugin that failed.
      throw Error(ErrorCode::Plugin, error.what());
    }
  });
  const std::string place = file.origin == "built-in" ? "built in" : file.path.string();
  note_provider(file.id(), file.id(), place);
  for (const auto& provides : file.provides)
    if (provides.overridden_by.empty()) note_provider(provides.name, file.id(), place);
  guard(staging->quantizers, file.id());
  guard(staging->architectures, file.id());
  guard(staging->patches, file.id());
  guard(staging->adapters, file.id());
  guard(staging->objectives, file.id());
  guard(staging->text_codecs, file.id());
  return staging;
}

}  // namespace tenon::host
