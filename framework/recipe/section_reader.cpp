#include "recipe/section_reader.h"

#include <algorithm>

#include "base/options.h"
#include "base/text.h"

namespace tenon::host {

namespace {

const OptionRow* find_row(const OptionTable& table, const std::string& name) {
  const auto row = std::find_if(table.rows.begin(), table.rows.end(), [&](const OptionRow& r) { return r.name == name; });
  return row == table.rows.end() ? nullptr : &*row;
}

std::vector<std::string> row_names(const OptionTable& table) {
  std::vector<std::string> names;
  for (const auto& row : table.rows) names.push_back(row.name);
  return names;
}

}  // namespace

std::string SectionReader::unknown_key(const std::string& section, const std::string& key) {
  const std::string where = section.empty() ? "" : " in [" + section + "]";
  std::vector<std::string> homes;
  for (const auto& other : recipe_schema())
    if (other.name != section && find_row(other.table, key)) homes.push_back("[" + other.name + "]");
  // `type`, `path` and their like are at home in many places, which says nothing.
  if (homes.size() == 1) return concat("'", key, "' is a key of ", homes.front(), section.empty() ? "" : ", not of [" + section + "]");
  if (const std::string to = migration_hint(section, key); !to.empty())
    return concat("unknown key '", key, "'", where, ": here it is ", to);
  std::vector<std::string> names;
  if (section.empty()) {
    for (const auto& other : recipe_schema()) names.push_back(other.name);
  } else {
    names = row_names(schema_section(section).table);
  }
  const std::string hint = did_you_mean(key, names);
  if (section.empty()) return concat("unknown table or key '", key, "'", hint.empty() ? ", the tables are: " + join(names, ", ") : hint);
  return concat("unknown key '", key, "'", where, hint.empty() && homes.size() == 2 ? ", it is one of " + join(homes, " and ") : hint);
}

void SectionReader::read_row(const OptionRow& row, const std::string& shown, const Value& value, void* target) {
  std::string wrong = check_value(row, value);
  if (wrong.empty()) {
    try {
      row.set(target, value);
      return;
    } catch (const Error& error) {
      wrong = error.what();
    }
  }
  report(value.place, concat("'", shown, "': ", wrong));
}

void SectionReader::check_file_tables(const Value& files) {
  if (!files.is_list()) return;
  const OptionTable& table = data_file_table();
  for (const auto& item : files.as_list()) {
    if (!item.is_table()) continue;
    for (const auto& [key, value] : item.as_table()) {
      const OptionRow* row = find_row(table, key);
      const std::string wrong = row ? check_value(*row, value) : "";
      if (!row)
        report(value.place, concat("unknown key '", key, "' of a data file: it takes path, format and weight"));
      else if (!wrong.empty())
        report(value.place, concat("'", key, "' of a data file: ", wrong));
    }
    if (!item.find("path")) report(item.place, "a data file needs a 'path'");
  }
}

Value SectionReader::read(const Section& section, const Value& table, void* target, Value* leftover) {
  Value resolved = Value::table();
  for (const auto& row : section.table.rows) {
    const Value* given = table.find(row.name);
    if (!given) {
      if (!row.default_value.is_null()) resolved.set(row.name, row.default_value);
      continue;
    }
    resolved.set(row.name, *given);
    if (given->is_string()) {
      if (const std::string later = not_yet_served(section.name, row.name + "=" + given->as_string()); !later.empty()) {
        report(given->place, later);
        continue;
      }
    }
    if (row.type == "list of files") {
      const size_t before = problems_.size();
      check_file_tables(*given);
      if (problems_.size() != before) continue;
    }
    read_row(row, section.name + "." + row.name, *given, target);
  }
  for (const auto& [key, value] : table.as_table()) {
    if (find_row(section.table, key)) continue;
    if (const std::string later = not_yet_served(section.name, key); !later.empty())
      report(value.place, later);
    else if (leftover)
      leftover->set(key, value);
    else
      report(value.place, unknown_key(section.name, key));
  }
  return resolved;
}

}  // namespace tenon::host
