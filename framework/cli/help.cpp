// Help and version: the texts around the table of verbs.
#include <fmt/format.h>

#include <sstream>

#include "cli/verbs.h"
#include "tenon/version.h"

namespace tenon::host {

std::string overview() {
  std::string text =
      "host runs recipes: it loads a Hugging Face checkpoint, quantizes it while loading, patches, adapts,\n"
      "trains, generates, writes. Every step is a plugin that a TOML recipe names.\n\n"
      "usage: host VERB [FLAGS]\n\n";
  for (const auto& verb : verbs())
    if (!verb.is_hidden) text += fmt::format("  {:10}{}\n", verb.name, verb.summary);
  return text +
         "\nhost VERB --help shows a verb's flags. Results go to stdout, the log to stderr.\n"
         "Exit status: 0 ok, 2 usage, 3 recipe, 4 plugin, 5 checkpoint or data, 6 device or memory, 70 a bug, 130 interrupted.\n";
}

std::string help_of(const Verb& verb) {
  std::ostringstream text;
  text << "host " << verb.name << (verb.usage.empty() ? "" : " ") << verb.usage << "\n  " << verb.summary << "\n";
  if (!flags_of(verb).options().empty()) text << "\n" << flags_of(verb);
  if (!verb.more.empty()) text << "\n" << verb.more << "\n";
  text << "\nfor every verb:\n"
          "  --set KEY=VALUE      change the recipe: train.learning_rate=1e-4, patch.0.factor=4\n"
          "  --plugin FILE        use this plugin file too\n"
          "  --plugin-dir FOLDER  look for plugins there too\n"
          "  --plugin-mode MODE   pinned or bundled: fewer plugins than the user's configuration allows\n"
          "  --no-plugins         only the plugins that came with host\n"
          "  --json               the result as JSON\n"
          "  --debug              a talkative log\n";
  return text.str();
}

std::string version_text() { return fmt::format("tenon {}, SDK {}.{}\n", TENON_VERSION, TENON_SDK_MAJOR, TENON_SDK_MINOR); }

}  // namespace tenon::host
