#pragma once
// Which plugin files are there, what they say they provide, and why some are not used. Reads manifests only: no plugin code runs and
// LibTorch is not needed.
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tenon/manifest.h"

namespace tenon::host {

struct Provides {
  std::string kind, name;
  std::vector<std::pair<std::string, std::string>> attributes;  // "modality" -> "image,text"
  std::string attribute(const std::string& key) const;          // "" when absent
};

enum class PluginState { Available, Rejected, Shadowed };

struct PluginFile {
  std::filesystem::path path;        // absolute; empty for a built-in one
  std::optional<Manifest> manifest;  // absent when unreadable
  std::vector<Provides> provides;
  PluginState state = PluginState::Available;
  std::vector<std::string> reasons;  // why rejected or shadowed, all of them
  std::string origin;                // "bundled", "user", "TENON_PLUGIN_PATH", "--plugin-dir", "--plugin"
  std::string id() const;
};

struct SearchPath {
  std::vector<std::filesystem::path> plugin_dirs;   // --plugin-dir
  std::vector<std::filesystem::path> plugin_files;  // --plugin
  bool bundled_only = false;                        // --no-plugins
};

struct Discovery {
  std::vector<PluginFile> files;  // in search order
};

struct PluginFolder {
  std::filesystem::path path;
  std::string origin;
};

// Search order: bundled directory (lib/tenon/plugins beside the host), $XDG_DATA_HOME/tenon/plugins, the absolute folders of TENON_PLUGIN_PATH, --plugin-dir;
// --plugin files come last. Never the working directory. With raised privileges (setuid) the bundled one alone.
std::vector<PluginFolder> plugin_folders(const SearchPath& search);

// Files that others could write to, alone or through a folder above, are rejected with the reason. Error(Usage) for a --plugin or --plugin-dir that is not there.
Discovery discover_plugins(const SearchPath& search);

// All mismatches between a manifest and this host, in a user's words, each with its remedy; empty when it fits.
std::vector<std::string> manifest_mismatches(const Manifest& manifest);

}  // namespace tenon::host
