#include "cli/plugins_list.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "plugins/manifest_reader.h"

namespace tenon::host {

namespace {

constexpr const char* kElsewhere = "not searched";  // the origin that judge_plugin gives

const char* state_name(const PluginFile& file) {
  if (file.state == PluginState::Available && file.origin == kElsewhere) return "not searched";
  const PluginState state = file.state;
  return state == PluginState::Available ? "available" : state == PluginState::Rejected ? "rejected" : "shadowed";
}

std::string version_of(const PluginFile& file) {
  return file.manifest ? field_text(file.manifest->version, sizeof file.manifest->version) : "";
}

Value provides_value(const Provides& provides) {
  Value attributes = Value::table();
  for (const auto& [key, value] : provides.attributes) attributes.set(key, value);
  Value entry = Value::table();
  entry.set("kind", provides.kind);
  entry.set("name", provides.name);
  entry.set("attributes", std::move(attributes));
  entry.set("overridden_by", provides.overridden_by);
  return entry;
}

Value file_value(const PluginFile& file, const ListFilter& filter) {
  Value provides = Value::list();
  for (const auto& row : file.provides)
    if (filter.matches(row)) provides.as_list().push_back(provides_value(row));
  Value entry = Value::table();
  entry.set("id", file.id());
  entry.set("version", version_of(file));
  entry.set("license", file.manifest ? field_text(file.manifest->license, sizeof file.manifest->license) : "");
  entry.set("tier", !file.manifest ? "" : file.manifest->tier == static_cast<uint32_t>(Tier::Stable) ? "stable" : "native");
  entry.set("path", file.path.string());
  entry.set("origin", file.origin);
  entry.set("state", state_name(file));
  entry.set("reasons", file.reasons);
  entry.set("provides", std::move(provides));
  return entry;
}

bool is_shown(const PluginFile& file, const ListFilter& filter) {
  const bool all = filter.kind.empty() && filter.modality.empty() && filter.method.empty();
  return all || std::any_of(file.provides.begin(), file.provides.end(), [&](const Provides& p) { return filter.matches(p); });
}

bool is_meant(const PluginFile& file, const std::string& name) {
  if (file.id() == name || file.path == name || file.path.filename() == name || file.path.stem() == name ||
      file.path.stem() == "lib" + name)
    return true;
  std::error_code error;
  if (name.find('/') != std::string::npos && std::filesystem::equivalent(file.path, name, error)) return true;
  return std::any_of(file.provides.begin(), file.provides.end(), [&](const Provides& p) {
    return p.is(p.kind, name) || (name.starts_with(p.kind + ":") && p.is(p.kind, name.substr(p.kind.size() + 1)));
  });
}

// Names that another usable file provides too: neither is taken when a recipe asks for one.
std::vector<std::string> conflicts(const Discovery& found, const PluginFile& file) {
  std::vector<std::string> texts;
  if (file.state != PluginState::Available) return texts;
  for (const auto& other : found.files) {
    if (other.state != PluginState::Available || other.id() == file.id()) continue;
    for (const auto& row : file.provides)
      for (const auto& theirs : other.provides)
        if (theirs.is(row.kind, row.name) && theirs.overridden_by.empty() && row.overridden_by.empty())
          texts.push_back(
              concat(row.kind, " '", row.name, "' is provided by ", other.id(), " (", other.path.string(),
                     ") too: a recipe that asks for it is refused until one of them is gone, renamed, or chosen with --override ", row.kind,
                     ":", row.name, "=ID"));
  }
  return texts;
}

}  // namespace

std::vector<PluginFile> find_meant(const Discovery& found, const std::string& name, const SearchPath& search) {
  std::vector<PluginFile> files;
  std::vector<std::string> names;
  for (const auto& file : found.files) {
    if (is_meant(file, name)) files.push_back(file);
    names.push_back(file.id());
    for (const auto& provides : file.provides) names.push_back(provides.name);
  }
  if (!files.empty()) return files;
  std::error_code error;
  if (std::filesystem::is_regular_file(name, error)) {
    PluginFile file = judge_plugin(name, found.policy);
    if (file.state == PluginState::Available) {
      file.reasons.push_back(
          concat("it is sound, but lies in no folder that is searched: --plugin ", name, ", or copy it to ",
                 plugin_folders(search).size() > 1 ? plugin_folders(search)[1].path.string() : "a folder of TENON_PLUGIN_PATH"));
    }
    return {std::move(file)};
  }
  std::string text = concat("no plugin file provides or is called '", name, "'", did_you_mean(name, names), "\n  looked in:");
  for (const auto& folder : plugin_folders(search))
    text += concat("\n    ", folder.path.string(), " (", folder.origin, std::filesystem::is_directory(folder.path) ? ")" : ", not there)");
  for (const auto& folder : ignored_plugin_folders()) text += "\n    not " + folder + " (TENON_PLUGIN_PATH): write the whole path";
  throw Error(ErrorCode::Plugin, text);
}

bool ListFilter::matches(const Provides& provides) const {
  if (!kind.empty() && provides.kind != kind) return false;
  if (!method.empty() && (provides.kind != "quantizer" || provides.attribute("method") != method)) return false;
  if (modality.empty()) return true;
  if (provides.kind != "architecture") return false;
  const auto declared = split(provides.attribute("modality"), ',');
  // Who declares nothing takes text.
  return modality == "text" || std::find(declared.begin(), declared.end(), modality) != declared.end();
}

void check_kind(const std::string& kind) {
  const auto& kinds = manifest_kinds();
  if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end())
    fail(ErrorCode::Usage, "--kind: there is no kind '", kind, "', the kinds are: ", join(kinds, ", "));
}

std::string list_text(const Discovery& found, const ListFilter& filter) {
  std::vector<std::array<std::string, 4>> rows;
  std::string refused;
  for (const auto& file : found.files) {
    if (!is_shown(file, filter)) continue;
    if (file.state != PluginState::Available) {
      refused += fmt::format("{} {} ({}): {}\n", state_name(file), file.id(), file.path.string(), join(file.reasons, "; "));
      continue;
    }
    for (const auto& provides : file.provides) {
      if (!filter.matches(provides)) continue;
      std::vector<std::string> attributes;
      for (const auto& [key, value] : provides.attributes) attributes.push_back(key + "=" + value);
      if (!provides.overridden_by.empty()) attributes.push_back("(not used: --override takes it from " + provides.overridden_by + ")");
      rows.push_back(
          {provides.kind, provides.name, fmt::format("{} {} ({})", file.id(), version_of(file), file.origin), join(attributes, " ")});
    }
  }
  std::stable_sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a[0] < b[0]; });
  std::array<size_t, 4> width{};
  for (const auto& row : rows)
    for (size_t i = 0; i < 4; ++i) width[i] = std::max(width[i], row[i].size());
  std::string text;
  for (const auto& row : rows) {
    std::string line = fmt::format("{:{}}  {:{}}  {:{}}  {}", row[0], width[0], row[1], width[1], row[2], width[2], row[3]);
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  if (rows.empty()) text += "no plugin to use\n";
  return refused.empty() ? text : text + "\n" + refused;
}

Value list_value(const Discovery& found, const ListFilter& filter) {
  Value list = Value::list();
  for (const auto& file : found.files)
    if (is_shown(file, filter)) list.as_list().push_back(file_value(file, filter));
  return list;
}

std::string why_text(const Discovery& found, const std::string& name, const SearchPath& search) {
  std::string text;
  for (const auto& file : find_meant(found, name, search)) {
    text += fmt::format("{} {} is {}\n  file: {} ({})\n", file.id(), version_of(file), state_name(file), file.path.string(), file.origin);
    std::vector<std::string> provides;
    for (const auto& row : file.provides) provides.push_back(row.kind + ":" + row.name);
    if (!provides.empty()) text += "  provides: " + join(provides, ", ") + "\n";
    for (const auto& row : file.provides)
      if (!row.overridden_by.empty())
        text += fmt::format("  - {} '{}' is taken from {} (--override)\n", row.kind, row.name, row.overridden_by);
    for (const auto& reason : file.reasons) text += "  - " + reason + "\n";
    for (const auto& conflict : conflicts(found, file)) text += "  - " + conflict + "\n";
  }
  return text;
}

Value why_value(const Discovery& found, const std::string& name, const SearchPath& search) {
  Value list = Value::list();
  for (const auto& file : find_meant(found, name, search)) {
    Value entry = file_value(file, {});
    entry.set("conflicts", conflicts(found, file));
    list.as_list().push_back(std::move(entry));
  }
  return list;
}

}  // namespace tenon::host
