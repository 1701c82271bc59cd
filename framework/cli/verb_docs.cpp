// `host __docs recipe`: docs/recipe.md, whole. `./dev check` compares it with the file.
#include <fmt/format.h>

#include <cstdio>

#include "cli/heavy_verbs.h"
#include "cli/plugin_options.h"
#include "cli/recipe_reference.h"

namespace tenon::host {

int verb_docs(const Args& args) {
  if (args.words.empty() || args.words[0] != "recipe") fail(ErrorCode::Usage, "host __docs knows one page: recipe");
  // The bundled ones alone, so that the page is the same everywhere.
  Registry registry(discover_plugins({.plugin_dirs = {}, .plugin_files = {}, .bundled_only = true}));
  std::string text = schema_markdown() + "\n# Options of the bundled plugins\n";
  for (const auto& kind : provider_kinds()) {
    if (kind == "architecture") continue;  // they take none
    for (const auto& name : registry.names(kind)) {
      const auto provider = provider_options(registry, kind, name);
      text += fmt::format("\n## {} `{}`\n\n{}\n\n{}", provider.kind, provider.name, provider.summary, options_markdown(provider.options));
    }
  }
  std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

}  // namespace tenon::host
