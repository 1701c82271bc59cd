#include "cli/args.h"

#include <boost/program_options/errors.hpp>
#include <boost/program_options/parsers.hpp>
#include <boost/program_options/positional_options.hpp>
#include <boost/program_options/value_semantic.hpp>
#include <boost/program_options/variables_map.hpp>

#include "base/text.h"
#include "cli/verbs.h"
#include "tenon/error.h"

namespace tenon::host {

namespace po = boost::program_options;

namespace {

po::options_description common_flags(bool has_recipe) {
  po::options_description flags("for every verb");
  auto add = flags.add_options();
  if (has_recipe)
    add("set", po::value<std::vector<std::string>>()->composing()->value_name("KEY=VALUE"),
        "change the recipe: train.learning_rate=1e-4, patch.0.factor=4");
  else
    add("set", po::value<std::vector<std::string>>()->composing()->value_name("KEY=VALUE"), "of no effect without a recipe");
  add("plugin", po::value<std::vector<std::string>>()->composing()->value_name("FILE"), "use this plugin file too");
  add("plugin-dir", po::value<std::vector<std::string>>()->composing()->value_name("FOLDER"), "look for plugins there too");
  add("override", po::value<std::vector<std::string>>()->composing()->value_name("KIND:NAME=ID"),
      "take this name from the plugin of that id, where several have it");
  add("plugin-mode", po::value<std::string>()->value_name("MODE"), "pinned or bundled: tighter than the user's configuration");
  add("no-plugins", po::bool_switch(), "only the plugins that came with host");
  add("json", po::bool_switch(), "the result as JSON");
  add("debug", po::bool_switch(), "a talkative log");
  add("help", po::bool_switch(), "this page");
  return flags;
}

std::vector<std::string> names_of(const po::options_description& flags) {
  std::vector<std::string> names;
  for (const auto& flag : flags.options()) names.push_back("--" + flag->long_name());
  return names;
}

[[noreturn]] void fail_verb(const std::string& name) {
  std::vector<std::string> names;
  for (const auto& verb : verbs())
    if (!verb.is_hidden) names.push_back(verb.name);
  const std::string hint = did_you_mean(name, names);
  fail(ErrorCode::Usage, "unknown verb '", name, "'", hint.empty() ? ", the verbs are: " + join(names, ", ") : hint);
}

// Boost's messages in our words.
[[noreturn]] void fail_flag(const Verb& verb, const po::options_description& flags, const po::error& error) {
  const std::string see = "; host " + verb.name + " --help shows what it takes";
  if (const auto* unknown = dynamic_cast<const po::unknown_option*>(&error)) {
    const std::string hint = did_you_mean(unknown->get_option_name(), names_of(flags));
    fail(ErrorCode::Usage, "host ", verb.name, ": unknown flag '", unknown->get_option_name(), "'", hint.empty() ? see : hint);
  }
  fail(ErrorCode::Usage, "host ", verb.name, ": ", error.what(), see);
}

template <class T>
std::vector<T> list_of(const Args& args, const char* flag) {
  std::vector<T> list;
  for (const auto& text : args.get<std::vector<std::string>>(flag).value_or(std::vector<std::string>())) list.emplace_back(text);
  return list;
}

// The type of each flag is the one it was declared with.
FlagValue plain_value(const boost::any& value) {
  if (const auto* v = boost::any_cast<bool>(&value)) return *v;
  if (const auto* v = boost::any_cast<int64_t>(&value)) return *v;
  if (const auto* v = boost::any_cast<double>(&value)) return *v;
  if (const auto* v = boost::any_cast<std::string>(&value)) return *v;
  return boost::any_cast<std::vector<std::string>>(value);
}

}  // namespace

po::options_description flags_of(const Verb& verb) {
  po::options_description flags(verb.name);
  if (verb.declare) {
    auto add = flags.add_options();
    verb.declare(add);
  }
  return flags;
}

Args parse_args(int argc, const char* const* argv) {
  Args args;
  std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  if (words.empty() || words[0] == "--help" || words[0] == "-h") return args;
  if (words[0] == "--version") words[0] = "version";
  if (words[0].rfind('-', 0) == 0) fail(ErrorCode::Usage, "the verb comes first: host VERB [FLAGS], found '", words[0], "'");
  args.verb = find_verb(words[0]);
  if (!args.verb) fail_verb(words[0]);
  const Verb& verb = *args.verb;
  for (auto& word : words)
    if (word == "-h") word = "--help";

  po::options_description flags = flags_of(verb);
  flags.add(common_flags(verb.takes_recipe));
  po::options_description all;
  all.add(flags).add_options()("words", po::value<std::vector<std::string>>());
  po::positional_options_description positions;
  positions.add("words", -1);
  using namespace po::command_line_style;
  try {
    // No guessing of abbreviations, and no one-letter flags: "-1" is a value.
    const auto parsed = po::command_line_parser(std::vector<std::string>(words.begin() + 1, words.end()))
                            .options(all)
                            .positional(positions)
                            .style(allow_long | long_allow_adjacent | long_allow_next)
                            .run();
    po::variables_map values;
    po::store(parsed, values);
    po::notify(values);
    for (const auto& [name, value] : values)
      if (!value.defaulted()) args.values.emplace(name, plain_value(value.value()));
  } catch (const po::error& error) {
    fail_flag(verb, flags, error);
  }
  args.help = args.on("help");
  args.json = args.on("json");
  args.debug = args.on("debug");
  args.settings = list_of<std::string>(args, "set");
  args.search.plugin_files = list_of<std::filesystem::path>(args, "plugin");
  args.search.plugin_dirs = list_of<std::filesystem::path>(args, "plugin-dir");
  args.search.bundled_only = args.on("no-plugins");
  args.search.overrides = list_of<std::string>(args, "override");
  args.search.mode = args.get<std::string>("plugin-mode").value_or("");
  args.words = list_of<std::string>(args, "words");
  if (args.help) return args;
  if (args.search.bundled_only && !(args.search.plugin_files.empty() && args.search.plugin_dirs.empty()))
    fail(ErrorCode::Usage, "host ", verb.name, ": --no-plugins contradicts --plugin and --plugin-dir");
  if (verb.takes_recipe) {
    if (args.words.empty()) fail(ErrorCode::Usage, "host ", verb.name, " needs a recipe: host ", verb.name, " ", verb.usage);
    args.recipe = args.words.front();
    args.words.erase(args.words.begin());
  } else if (!args.settings.empty()) {
    fail(ErrorCode::Usage, "host ", verb.name, " reads no recipe: --set changes nothing here");
  }
  if (args.words.size() > verb.max_words)
    fail(ErrorCode::Usage, "host ", verb.name, ": '", args.words[verb.max_words], "' is one word too many: host ", verb.name, " ",
         verb.usage);
  return args;
}

}  // namespace tenon::host
