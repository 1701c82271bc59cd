#include "plugins/policy.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "plugins/permissions.h"
#include "tenon/error.h"

namespace tenon::host {

namespace fs = std::filesystem;

namespace {

constexpr PluginMode kModes[] = {PluginMode::User, PluginMode::Pinned, PluginMode::Bundled};

std::vector<std::string> mode_names() {
  std::vector<std::string> names;
  for (const PluginMode mode : kModes) names.emplace_back(mode_name(mode));
  return names;
}

bool is_sha256(const std::string& text) { return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos; }

PluginPolicy policy_of(const Value& value, const fs::path& file) {
  PluginPolicy policy;
  policy.set_by = file.string();
  for (const auto& [key, entry] : value.as_table()) {
    if (key == "mode") {
      const auto mode = parse_mode(entry.as_string());
      if (!mode)
        fail(ErrorCode::Plugin, "mode '", entry.as_string(), "' is none of ", join(mode_names(), ", "),
             did_you_mean(entry.as_string(), mode_names()));
      policy.mode = *mode;
    } else if (key == "pins") {
      for (const auto& [id, sha256] : entry.as_table()) {
        if (!is_sha256(sha256.as_string())) fail(ErrorCode::Plugin, "the pin of ", id, " is no sha256 of 64 digits: host plugins pin ", id);
        policy.pins.push_back({id, sha256.as_string()});
      }
    } else {
      fail(ErrorCode::Plugin, "unknown key '", key, "', the keys are mode and pins");
    }
  }
  return policy;
}

}  // namespace

const PluginPin* PluginPolicy::find(const std::string& id) const {
  const auto found = std::find_if(pins.begin(), pins.end(), [&](const PluginPin& pin) { return pin.id == id; });
  return found == pins.end() ? nullptr : &*found;
}

bool PluginPolicy::tighten(PluginMode wish, const std::string& who) {
  if (wish < mode) return false;
  if (wish > mode) mode = wish, set_by = who;
  return true;
}

const char* mode_name(PluginMode mode) { return mode == PluginMode::User ? "user" : mode == PluginMode::Pinned ? "pinned" : "bundled"; }

std::optional<PluginMode> parse_mode(std::string_view text) {
  for (const PluginMode mode : kModes)
    if (text == mode_name(mode)) return mode;
  return std::nullopt;
}

fs::path policy_file() {
  const char* config = ::secure_getenv("XDG_CONFIG_HOME");
  if (config && config[0] == '/') return fs::path(config) / "tenon" / "plugins.json";
  const char* home = ::secure_getenv("HOME");
  if (home && home[0] == '/') return fs::path(home) / ".config" / "tenon" / "plugins.json";
  return {};
}

PluginPolicy read_policy(const fs::path& file) {
  std::error_code error;
  if (file.empty() || !fs::exists(file, error)) return {};
  try {
    if (const std::string problem = permission_problem(file, Trust::Strict); !problem.empty()) fail(ErrorCode::Plugin, problem);
    return policy_of(read_json_file(file), file);
  } catch (const Error& problem) {
    const std::string text = problem.what(), name = file.string();
    throw Error(ErrorCode::Plugin,
                (text.find(name) == std::string::npos ? name + ": " : "") + text + "; until it is mended or removed no plugin is used");
  }
}

void write_policy(const PluginPolicy& policy, const fs::path& file) {
  if (file.empty()) fail(ErrorCode::Usage, "there is no home folder to keep pins in: set XDG_CONFIG_HOME");
  Value pins = Value::table();
  for (const auto& pin : policy.pins) pins.set(pin.id, pin.sha256);
  Value value = Value::table();
  value.set("mode", mode_name(policy.mode));
  value.set("pins", std::move(pins));
  fs::create_directories(file.parent_path());
  write_file(file, to_json(value, 2) + "\n");
  ::chmod(file.c_str(), 0600);
}

}  // namespace tenon::host
