#pragma once
// The recipe's own tables: one row per key, the single source of parsing, checks, defaults and docs/recipe.md.
#include <string>
#include <vector>

#include "tenon/options.h"

namespace tenon::host {

enum class SectionShape {
  Table,   // [name]
  Repeat,  // [name], or [[name]] several times
};

struct Section {
  std::string name, doc;
  SectionShape shape = SectionShape::Table;
  std::string plugin_kind = "";  // what is not in the table are options of a plugin of this kind
  OptionTable table;             // `set` of a row writes into the section's struct of recipe.h
};

// In the order in which a recipe goes through them.
const std::vector<Section>& recipe_schema();
const Section& schema_section(const std::string& name);
const OptionTable& data_file_table();  // an entry of data.train and data.eval written as a table

// Names that mean something elsewhere, and what to write here: "base_model" -> "path in [model]". For unknown keys only.
// `section` "" is the top level. "" when there is nothing to say.
std::string migration_hint(const std::string& section, const std::string& key);

// Tables ("reference", "") and values ("data", "format=preference") that a later capability serves: the text of
// the error, or "".
std::string not_yet_served(const std::string& section, const std::string& key);

}  // namespace tenon::host
