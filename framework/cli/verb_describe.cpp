// `host plugins describe NAME`: what a provider takes, as text, JSON, Markdown or a piece of a recipe.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "base/json.h"
#include "base/options.h"
#include "cli/heavy_verbs.h"
#include "cli/plugin_options.h"
#include "cli/recipe_reference.h"

namespace tenon::host {

namespace {

std::string as_text(const ProviderOptions& provider) {
  std::string text = fmt::format("{} {} - {} ({})\n", provider.kind, provider.name, provider.summary, provider.plugin);
  if (provider.options.rows.empty()) return text + "  no options\n";
  std::array<size_t, 4> width{};
  std::vector<std::array<std::string, 5>> rows;
  for (const auto& row : provider.options.rows) {
    rows.push_back({row.name, row.type, toml_text(row.default_value), constraint_text(row), row.doc});
    for (size_t i = 0; i < width.size(); ++i) width[i] = std::max(width[i], rows.back()[i].size());
  }
  for (const auto& row : rows)
    text +=
        fmt::format("  {:{}}  {:{}}  {:{}}  {:{}}  {}\n", row[0], width[0], row[1], width[1], row[2], width[2], row[3], width[3], row[4]);
  return text;
}

std::string as_toml(const ProviderOptions& provider) {
  const bool repeats = provider.kind == "patch";
  std::string text = provider.kind == "objective" ? fmt::format("[train]\nobjective = \"{0}\"\n[train.{0}]\n", provider.name)
                                                  : fmt::format("{0}{1}{2}\ntype = \"{3}\"\n", repeats ? "[[" : "[", provider.kind,
                                                                repeats ? "]]" : "]", provider.name);
  for (const auto& row : provider.options.rows) {
    const std::string constraint = constraint_text(row);
    text += fmt::format("{}{} = {}  # {}{}\n", row.default_value.is_null() ? "# " : "", row.name,
                        row.default_value.is_null() ? "..." : toml_text(row.default_value), constraint.empty() ? "" : constraint + ": ",
                        row.doc);
  }
  return text;
}

Value as_value(const ProviderOptions& provider) {
  Value options = Value::list();
  for (const auto& row : provider.options.rows) {
    Value option = Value::table();
    option.set("name", row.name);
    option.set("type", row.type);
    option.set("default", row.default_value);
    if (!row.constraint.choices.empty()) option.set("choices", Value(row.constraint.choices));
    if (std::isfinite(row.constraint.min)) option.set("min", row.constraint.min);
    if (std::isfinite(row.constraint.max)) option.set("max", row.constraint.max);
    option.set("doc", row.doc);
    options.as_list().push_back(std::move(option));
  }
  Value value = Value::table();
  value.set("kind", provider.kind);
  value.set("name", provider.name);
  value.set("summary", provider.summary);
  value.set("plugin", provider.plugin);
  value.set("options", std::move(options));
  return value;
}

}  // namespace

int verb_describe(const Args& args) {
  Registry registry(discover_plugins(args.search));
  std::string text;
  Value list = Value::list();
  for (const auto& provider : providers_meant(registry, args.words.at(1))) {
    if (!text.empty()) text += "\n";
    if (args.json)
      list.as_list().push_back(as_value(provider));
    else if (args.on("toml"))
      text += as_toml(provider);
    else if (args.on("markdown"))
      text += fmt::format("### {} `{}`\n\n{}\n\n{}", provider.kind, provider.name, provider.summary, options_markdown(provider.options));
    else
      text += as_text(provider);
  }
  if (args.json) text = to_json(list, 2) + "\n";
  std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

}  // namespace tenon::host
