#include "cli/pin.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/json.h"
#include "base/sha256.h"
#include "base/text.h"
#include "cli/plugins_list.h"
#include "tenon/error.h"

namespace tenon::host {

namespace {

bool came_with_host(const PluginFile& file) { return file.origin == "bundled" || file.origin == "built-in"; }

// The files to pin, as they would be judged without any mode.
std::vector<PluginFile> files_meant(const Args& args, const std::string& name, const PluginPolicy& policy) {
  const Discovery found = discover_plugins(args.search, {.pins = policy.pins});
  std::vector<PluginFile> files;
  if (name.empty()) {
    std::copy_if(found.files.begin(), found.files.end(), std::back_inserter(files),
                 [](const PluginFile& file) { return file.state == PluginState::Available && !came_with_host(file); });
    return files;
  }
  std::string refused;
  for (auto& file : find_meant(found, name, args.search)) {
    // One that lies outside the search is refused for that alone; it may be pinned before it is put in its place.
    if (file.origin == "not searched") file = judge_plugin(file.path, {});
    if (came_with_host(file))
      refused += concat("\n  ", file.id(), " comes with the host: no mode keeps it out, it needs no pin");
    else if (file.state != PluginState::Available)
      refused += concat("\n  ", file.path.string(), ": ", join(file.reasons, "; "));
    else
      files.push_back(std::move(file));
  }
  if (files.empty()) fail(ErrorCode::Plugin, "nothing that '", name, "' means can be pinned:", refused);
  return files;
}

std::string report(const Args& args, const PluginPolicy& policy, const std::vector<PluginPin>& changed) {
  if (args.json) {
    Value pins = Value::list();
    for (const auto& pin : policy.pins) {
      Value entry = Value::table();
      entry.set("id", pin.id), entry.set("sha256", pin.sha256);
      pins.as_list().push_back(std::move(entry));
    }
    Value value = Value::table();
    value.set("file", policy_file().string());
    value.set("mode", mode_name(policy.mode));
    value.set("pins", std::move(pins));
    return to_json(value, 2) + "\n";
  }
  std::string text;
  for (const auto& pin : changed) text += fmt::format("{} {} {}\n", args.on("remove") ? "forgot" : "pinned", pin.id, pin.sha256);
  if (changed.empty()) text += "no plugin besides those that came with the host: nothing to pin\n";
  text += fmt::format("mode {}, {} pinned, in {}\n", mode_name(policy.mode), policy.pins.size(), policy_file().string());
  if (policy.mode == PluginMode::User) text += "every mode but pinned ignores pins: host plugins pin --mode pinned\n";
  return text;
}

}  // namespace

std::string pin_plugins(const Args& args, const std::string& name) {
  PluginPolicy policy = read_policy();
  const auto mode = args.get<std::string>("mode");
  if (mode) {
    const auto wanted = parse_mode(*mode);
    if (!wanted) fail(ErrorCode::Usage, "--mode: '", *mode, "' is no mode, the modes are user, pinned, bundled");
    policy.mode = *wanted;
  }
  std::vector<PluginPin> changed;
  auto forget = [&](const std::string& id) { return std::erase_if(policy.pins, [&](const PluginPin& pin) { return pin.id == id; }) > 0; };
  if (args.on("remove")) {
    if (name.empty()) fail(ErrorCode::Usage, "host plugins pin --remove needs a NAME: the id of a pinned plugin");
    std::vector<std::string> ids;
    for (const auto& pin : policy.pins) ids.push_back(pin.id);
    if (const PluginPin* pin = policy.find(name)) changed.push_back(*pin);
    if (!forget(name)) fail(ErrorCode::Plugin, "no plugin of id '", name, "' is pinned", did_you_mean(name, ids));
  } else if (!mode || !name.empty()) {
    for (const auto& file : files_meant(args, name, policy)) {
      forget(file.id());
      policy.pins.push_back({file.id(), sha256_file(file.path)});
      changed.push_back(policy.pins.back());
    }
  }
  write_policy(policy);
  std::string text = report(args, policy, changed);
  if (mode && changed.empty() && !args.json) text.erase(0, text.find("mode "));
  return text;
}

}  // namespace tenon::host
