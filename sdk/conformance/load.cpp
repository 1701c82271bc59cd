// Checks that open the library and register it.
#include <algorithm>
#include <set>

#include "any_provider.h"
#include "check.h"
#include "global_state.h"
#include "tenon/json.h"

namespace tenon::conformance {

namespace {

void check_open(Context& c) { c.entry(); }

void check_register(Context& c) { c.registrar(); }

std::string joined(const std::set<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

void check_names(Context& c) {
  std::set<std::string> promised, registered, missing, extra;
  for (const auto& row : c.subject().provides) promised.insert(row.subject());
  for (const auto& provider : all_providers(c.registrar())) {
    const std::string name = provider.kind + ":" + provider.name;
    expect(registered.insert(name).second, "it registers ", name, " twice: keep one");
  }
  std::set_difference(promised.begin(), promised.end(), registered.begin(), registered.end(), std::inserter(missing, missing.end()));
  std::set_difference(registered.begin(), registered.end(), promised.begin(), promised.end(), std::inserter(extra, extra.end()));
  expect(missing.empty(), "its manifest promises ", joined(missing), ", which it does not register");
  expect(extra.empty(), "it registers ", joined(extra), ", which its manifest does not name");
}

// All that a user sees of a registration.
Value described(const Registrar& registrar) {
  Value all = Value::list();
  for (const auto& provider : all_providers(registrar)) {
    Value rows = Value::list();
    for (const auto& row : provider.options->rows) {
      Value choices = Value(row.constraint.choices);
      const std::string bounds = concat(row.constraint.min, " to ", row.constraint.max);
      rows.as_list().push_back(Value(Value::List{row.name, row.doc, row.type, row.default_value, choices, bounds}));
    }
    all.as_list().push_back(Value(Value::List{provider.kind, provider.name, provider.summary, rows}));
  }
  return all;
}

void check_twice(Context& c) {
  Registrar again;
  c.entry()(&again);
  const Value first = described(c.registrar()), second = described(again);
  expect(first == second, "a second registration differs from the first: ", to_json(second), " after ", to_json(first));
}

void check_unknown_name(Context& c) {
  std::set<std::string> kinds;
  for (const auto& row : c.subject().provides) {
    kinds.insert(row.kind);
    c.subject().ask(row.kind, row.name);
  }
  const std::string unknown = "no_such_name";
  for (const auto& kind : kinds) {
    try {
      c.subject().ask(kind, unknown);
    } catch (const Error& error) {
      expect(error.code() == ErrorCode::Plugin && std::string(error.what()).find(unknown) != std::string::npos, "asking for an unknown ",
             kind, " gave '", error.what(), "', expected a plugin error that names it");
      continue;
    }
    failed("asking for an unknown ", kind, " was no error");
  }
}

void check_global_state(Context& c) {
  c.registrar();
  const std::string changed = difference(c.before(), read_global_state());
  expect(changed.empty(), "loading or registering changed the process: ", changed, "; use guards that put things back");
}

}  // namespace

std::vector<Check> load_checks() {
  return {
      {"load.open", 1, "file.provides file.release file.sdk file.compiler file.place file.names",
       "A library that cannot be mapped, or whose static constructors throw, takes the host down before any error can be caught.",
       check_open},
      {"load.register", 1, "load.open", "A registration that throws leaves the plugin out, whatever the recipe says.", check_register},
      {"load.names", 1, "load.register", "The host chooses plugins by their manifests: what is registered must be what they say.",
       check_names},
      {"load.twice", 1, "load.names", "Registration must not depend on what ran before: sessions come and go in one process.", check_twice},
      {"load.unknown_name", 1, "load.names", "A recipe's right name must be found and a misspelt one be an error that can be read.",
       check_unknown_name},
      {"load.global_state", 1, "load.register",
       "LibTorch's modes, the locale, the environment and signal handlers belong to the whole process.", check_global_state},
  };
}

}  // namespace tenon::conformance
