#pragma once
// Which plugin files are there, what they say they provide, and why some are not used. Reads manifests only: no plugin code runs and
// LibTorch is not needed.
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "plugins/policy.h"
#include "tenon/manifest.h"

namespace tenon::host {

struct Provides {
  std::string kind, name;
  std::vector<std::pair<std::string, std::string>> attributes;        // "modality" -> "image,text"
  std::string overridden_by = "";                                     // id of the plugin that --override prefers for this name
  std::string attribute(const std::string& key) const;                // "" when absent
  bool is(const std::string& kind_, const std::string& name_) const;  // model_types are spelled with '-' and with '_'
};

enum class PluginState { Available, Rejected, Shadowed };

struct PluginFile {
  std::filesystem::path path;        // absolute; of a built-in one the library it is linked into, or empty
  std::optional<Manifest> manifest;  // absent when unreadable
  std::vector<Provides> provides;
  PluginState state = PluginState::Available;
  std::vector<std::string> reasons;  // why rejected or shadowed, all of them
  std::string origin;                // "built-in", "bundled", "user", "TENON_PLUGIN_PATH", "--plugin-dir", "--plugin"
  std::string id() const;
};

struct SearchPath {
  std::vector<std::filesystem::path> plugin_dirs;   // --plugin-dir
  std::vector<std::filesystem::path> plugin_files;  // --plugin
  bool bundled_only = false;                        // --no-plugins
  std::string mode = "";                            // --plugin-mode: tightens what the user's configuration says
  std::string recipe_mode = "";                     // the recipe's wish, likewise
  std::vector<std::string> overrides = {};          // --override: "quantizer:mine=org.example.mine"
};

struct Discovery {
  std::vector<PluginFile> files;  // in search order
  PluginPolicy policy = {};       // that was applied
};

struct PluginFolder {
  std::filesystem::path path;
  std::string origin;
};

// Search order: bundled directory (lib/tenon/plugins beside the host), $XDG_DATA_HOME/tenon/plugins, the absolute folders of TENON_PLUGIN_PATH, --plugin-dir;
// --plugin files come last. Never the working directory. With raised privileges (setuid) the bundled one alone.
std::vector<PluginFolder> plugin_folders(const SearchPath& search);

// Files that others could write to, alone or through a folder above, are rejected with the reason. Error(Usage) for a --plugin or --plugin-dir that is not there.
// Then the policy is applied to all that did not come with the host: the user's own (plugins/policy.h), tightened as `search` says, or the one given.
// Last the overrides: Error(Usage) for one that does not read as kind:name=id, Error(Plugin) when the plugin it names cannot take the place.
Discovery discover_plugins(const SearchPath& search);
Discovery discover_plugins(const SearchPath& search, const PluginPolicy& policy);

// Folders of TENON_PLUGIN_PATH that are not searched, because they are not absolute.
std::vector<std::string> ignored_plugin_folders();

// The file as discovery would judge it behind --plugin, wherever it lies.
PluginFile judge_plugin(const std::filesystem::path& file, const PluginPolicy& policy);

// All mismatches between a manifest and this host, in a user's words, each with its remedy; empty when it fits.
std::vector<std::string> manifest_mismatches(const Manifest& manifest);

// Of the CUDA releases (13000 is 13.0, 0 none) that kernels of a plugin and of this host were built with; "" when they get on.
std::string cuda_mismatch(uint32_t theirs, uint32_t ours);

}  // namespace tenon::host
