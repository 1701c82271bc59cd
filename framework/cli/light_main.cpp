#include "cli/light_main.h"

#include <cstdio>

#include "base/json.h"
#include "base/log.h"
#include "cli/new_plugin.h"
#include "cli/pin.h"
#include "cli/plugins_list.h"
#include "cli/verbs.h"
#include "recipe/recipe.h"
#include "tenon/error.h"

namespace tenon::host {

namespace {

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

std::optional<int> run_plugins(const Args& args) {
  const std::string what = args.words.empty() ? "list" : args.words[0];
  if (what != "list" && what != "why" && what != "describe" && what != "pin" && what != "new")
    fail(ErrorCode::Usage, "host plugins: unknown word '", what, "', it takes ", args.verb->usage);
  if (what == "new") {
    if (args.words.size() < 3)
      fail(ErrorCode::Usage, "host plugins new needs a KIND and a NAME, as in host plugins new quantizer my_quantizer");
    print(new_plugin(args, args.words[1], args.words[2]));
    return 0;
  }
  if (args.words.size() > 2)
    fail(ErrorCode::Usage, "host plugins ", what, ": '", args.words[2], "' is one word too many: host plugins ", args.verb->usage);
  if (what == "list") {
    if (args.words.size() > 1)
      fail(ErrorCode::Usage, "host plugins list takes no name: host plugins describe ", args.words[1], " shows what it takes");
    const ListFilter filter{args.get<std::string>("kind").value_or(""), args.get<std::string>("modality").value_or(""),
                            args.get<std::string>("method").value_or("")};
    if (!filter.kind.empty()) check_kind(filter.kind);
    const Discovery found = discover_plugins(args.search);
    print(args.json ? to_json(list_value(found, filter), 2) + "\n" : list_text(found, filter));
    return 0;
  }
  if (what == "pin") {
    print(pin_plugins(args, args.words.size() > 1 ? args.words[1] : ""));
    return 0;
  }
  if (args.words.size() < 2) fail(ErrorCode::Usage, "host plugins ", what, " needs a NAME: host plugins list shows what there is");
  if (what == "describe") return std::nullopt;
  const Discovery found = discover_plugins(args.search);
  print(args.json ? to_json(why_value(found, args.words[1], args.search), 2) + "\n" : why_text(found, args.words[1], args.search));
  return 0;
}

}  // namespace

std::optional<int> run_light(const Args& args) {
  if (args.debug) set_log_level(LogLevel::Debug);
  if (!args.verb || args.help) {
    print(args.verb ? help_of(*args.verb) : overview());
    return 0;
  }
  if (args.verb->name == "version") {
    print(version_text());
    return 0;
  }
  if (args.verb->name == "help") {
    const Verb* verb = args.words.empty() ? nullptr : find_verb(args.words[0]);
    if (!args.words.empty() && !verb) fail(ErrorCode::Usage, "there is no verb '", args.words[0], "': host --help lists them");
    print(verb ? help_of(*verb) : overview());
    return 0;
  }
  if (args.verb->name == "plugins") return run_plugins(args);
  // Recipe errors need not wait for LibTorch.
  if (args.verb->takes_recipe) read_recipe(args.recipe, args.settings);
  return std::nullopt;
}

}  // namespace tenon::host
