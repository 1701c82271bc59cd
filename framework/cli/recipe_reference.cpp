#include "cli/recipe_reference.h"

#include <fmt/format.h>

#include "base/options.h"
#include "recipe/schema.h"

namespace tenon::host {

namespace {

// A '|' would end a cell.
std::string cell(std::string text) {
  for (size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2) text.insert(at, "\\");
  return text;
}

std::string headline(const Section& section) {
  return section.shape == SectionShape::Repeat ? fmt::format("## `[{0}]` or `[[{0}]]`", section.name)
                                               : fmt::format("## `[{}]`", section.name);
}

}  // namespace

std::string options_markdown(const OptionTable& table) {
  if (table.rows.empty()) return "No options.\n";
  std::string text = "| key | type | default | values | meaning |\n|---|---|---|---|---|\n";
  for (const auto& row : table.rows)
    text += fmt::format("| `{}` | {} | {} | {} | {} |\n", row.name, row.type,
                        row.default_value.is_null() ? "" : "`" + cell(toml_text(row.default_value)) + "`", cell(constraint_text(row)),
                        cell(row.doc));
  return text;
}

std::string schema_markdown() {
  std::string text =
      "# Recipe reference\n\n"
      "Made by `host __docs recipe` from the tables that check a recipe; `./dev check` compares. A recipe is TOML; paths are relative to "
      "its folder.\n"
      "Unknown keys, wrong types and values out of range are errors, all in one report, each with line, column and the nearest valid "
      "name.\n"
      "`--set train.learning_rate=1e-4` and `--set patch.0.factor=4` change a recipe from the command line: the value is TOML, else a bare "
      "string.\n";
  for (const auto& section : recipe_schema()) {
    text += "\n" + headline(section) + "\n\n" + section.doc + "\n\n" + options_markdown(section.table);
    if (section.name == "data") text += "\nAn entry of `train` and `eval` written as a table:\n\n" + options_markdown(data_file_table());
    if (section.plugin_kind == "objective")
      text += "\nOptions of the objective stand in `[train.<name>]`.\n";
    else if (!section.plugin_kind.empty())
      text += "\nAll other keys are options of the plugin that `type` names.\n";
  }
  return text;
}

}  // namespace tenon::host
