#pragma once
// Which plugins a user lets in at all: a mode and a list of pinned files, kept in the user's own configuration. What a command line or a recipe
// asks for can only make it tighter.
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tenon::host {

enum class PluginMode { User, Pinned, Bundled };  // from loose to tight

struct PluginPin {
  std::string id, sha256;
};

struct PluginPolicy {
  PluginMode mode = PluginMode::User;
  std::string set_by = "the default";  // for messages: a file, "--plugin-mode", "the recipe"
  std::vector<PluginPin> pins;

  const PluginPin* find(const std::string& id) const;
  // The tighter of both counts; `set_by` follows. A looser wish changes nothing and returns false.
  bool tighten(PluginMode wish, const std::string& who);
};

const char* mode_name(PluginMode mode);
// "user", "pinned" or "bundled"; nullopt otherwise.
std::optional<PluginMode> parse_mode(std::string_view text);

// $XDG_CONFIG_HOME/tenon/plugins.json, by default ~/.config/tenon/plugins.json; empty without a home.
std::filesystem::path policy_file();
// The defaults when the file is not there. Error(Plugin) when it does not read or others could have written it: a damaged lock stays shut.
PluginPolicy read_policy(const std::filesystem::path& file = policy_file());
// Keeps `mode` and `pins`. Error(Usage) without a home to keep them in.
void write_policy(const PluginPolicy& policy, const std::filesystem::path& file = policy_file());

}  // namespace tenon::host
