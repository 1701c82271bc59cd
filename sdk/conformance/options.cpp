// Checks of option tables, whatever the kind of the provider.
#include <cctype>
#include <cmath>
#include <set>

#include "any_provider.h"
#include "check.h"
#include "tenon/json.h"

namespace tenon::conformance {

namespace {

Value one(const std::string& name, Value value) { return Value(Value::Table{{name, std::move(value)}}); }

// The host's own keys beside a plugin's options in a recipe's table.
bool is_taken(const std::string& kind, const std::string& name) {
  static const std::set<std::string> quantizer{"type", "modules", "skip_modules", "embeddings"}, adapter{"type", "name", "path"};
  return (kind == "quantizer" && quantizer.count(name)) || (kind == "adapter" && adapter.count(name)) ||
         (kind == "patch" && name == "type");
}

bool is_key(const std::string& name) {
  for (const unsigned char c : name)
    if (!std::isalnum(c) && c != '_' && c != '-') return false;
  return !name.empty();
}

std::string joined(const std::vector<std::string>& items) {
  std::string text;
  for (const auto& item : items) text += (text.empty() ? "" : "; ") + item;
  return text;
}

void check_docs(Context& c) {
  const AnyProvider provider = any_provider(c);
  expect(!provider.summary.empty(), "it has no summary: `host plugins describe ", provider.name, "` shows an empty line");
  std::set<std::string> names;
  for (const auto& row : provider.options->rows) {
    expect(is_key(row.name), "option '", row.name, "' is no key of a recipe: letters, digits, '_' and '-' make one");
    expect(names.insert(row.name).second, "option '", row.name, "' has two rows");
    expect(!is_taken(provider.kind, row.name), "option '", row.name, "' is a key of the host's own in [", provider.kind, "]: rename it");
    expect(!row.doc.empty(), "option '", row.name, "' has no doc: a sentence on what it does");
    expect(!row.type.empty(), "option '", row.name, "' has no type");
  }
}

void check_defaults(Context& c) {
  const AnyProvider provider = any_provider(c);
  Value all = Value::table();
  for (const auto& row : provider.options->rows) {
    if (row.default_value.is_null()) continue;  // no value of its own: the option is unset
    const auto problems = c.subject().option_problems(*provider.options, one(row.name, row.default_value), c.provided().subject());
    expect(problems.empty(), "the default of '", row.name, "' is not valid: ", joined(problems));
    all.set(row.name, row.default_value);
  }
  provider.make(Value::table());
  try {
    provider.make(all);
  } catch (const std::exception& error) {
    failed("made without options it works, with all defaults written out it does not: ", error.what());
  }
}

// Values at the ends of what a row allows, and values beyond them.
void boundaries(const OptionRow& row, std::vector<Value>& inside, std::vector<Value>& outside) {
  const Constraint& constraint = row.constraint;
  if (!constraint.choices.empty()) {
    inside = constraint.choices;
    if (constraint.choices.front().is_string()) outside.push_back("no such choice");
    if (constraint.choices.front().is_number()) outside.push_back(-123456789);
  } else if (row.type == "int" || row.type == "float") {
    const bool whole = row.type == "int";
    auto number = [&](double v) { return whole ? Value(static_cast<int64_t>(v)) : Value(v); };
    if (std::isfinite(constraint.min)) inside.push_back(number(constraint.min)), outside.push_back(number(constraint.min - 1));
    if (std::isfinite(constraint.max)) inside.push_back(number(constraint.max)), outside.push_back(number(constraint.max + 1));
    outside.push_back("a word");
  } else if (row.type == "bool") {
    inside = {true, false};
    outside = {7, "a word"};
  } else if (row.type == "string") {
    outside = {7};
  }
}

void check_boundaries(Context& c) {
  const AnyProvider provider = any_provider(c);
  auto problems_of = [&](const Value& values) { return c.subject().option_problems(*provider.options, values, c.provided().subject()); };
  int64_t tried = 0;
  for (const auto& row : provider.options->rows) {
    std::vector<Value> inside, outside;
    boundaries(row, inside, outside);
    for (const Value& value : inside) {
      const Value values = one(row.name, value);
      // A row's own check may be narrower than its range.
      if (const auto problems = problems_of(values); !problems.empty()) {
        expect(row.constraint.check != nullptr, row.name, " = ", to_json(value), " is refused: ", joined(problems));
        continue;
      }
      ++tried;
      try {
        provider.make(values);
      } catch (const Error& error) {
        // A value that is known and not served, or contradicts another default: a refusal in the recipe's terms.
        expect(error.code() == ErrorCode::Recipe && std::string(error.what()).find(row.name) != std::string::npos, "the table allows ",
               row.name, " = ", to_json(value), ", made with it: ", error.what());
      } catch (const std::exception& error) {
        failed("the table allows ", row.name, " = ", to_json(value), ", made with it: ", error.what());
      }
    }
    for (const Value& value : outside) {
      const auto problems = problems_of(one(row.name, value));
      ++tried;
      expect(problems.size() == 1 && problems[0].find("'" + row.name + "'") != std::string::npos, row.name, " = ", to_json(value),
             " must be refused by one sentence that names the option, found: ", problems.empty() ? "nothing" : joined(problems));
    }
  }
  if (tried == 0) skipped("no option has a boundary");
}

void check_unknown_key(Context& c) {
  const AnyProvider provider = any_provider(c);
  const std::string unknown = "no_such_option";
  const auto problems = c.subject().option_problems(*provider.options, one(unknown, 1), c.provided().subject());
  expect(problems.size() == 1 && problems[0].find(unknown) != std::string::npos, "the unknown option '", unknown,
         "' must be refused by name, found: ", problems.empty() ? "nothing" : joined(problems));
  // The host asks first; a plugin that is handed one all the same may ignore it or refuse it.
  try {
    provider.make(one(unknown, 1));
  } catch (const Error& error) {
    expect(std::string(error.what()).find(unknown) != std::string::npos, "handed '", unknown, "' it says '", error.what(),
           "', which does not name it");
  }
}

}  // namespace

std::vector<Check> option_checks() {
  return {
      {"options.docs", 1, "load.names", "`describe`, the recipe reference and spelling hints are made from the table alone.", check_docs},
      {"options.defaults", 1, "load.names", "A recipe that names the plugin and nothing else must work.", check_defaults},
      {"options.boundaries", 1, "options.defaults",
       "What the table allows must work or be refused by name, what it does not allow be refused before any weight is read.",
       check_boundaries},
      {"options.unknown_key", 1, "options.defaults",
       "A misspelt option that is silently ignored is a run with other settings than asked for.", check_unknown_key},
  };
}

}  // namespace tenon::conformance
