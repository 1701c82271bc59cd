#include "plugins/overrides.h"

#include <algorithm>

#include "base/text.h"
#include "plugins/manifest_reader.h"
#include "tenon/error.h"

namespace tenon::host {

std::string Override::text() const { return kind + ":" + name + "=" + id; }

std::vector<Override> read_overrides(const std::vector<std::string>& texts) {
  std::vector<Override> all;
  for (const auto& text : texts) {
    const size_t colon = text.find(':'), equals = text.find('=');
    if (colon == std::string::npos || equals == std::string::npos || colon == 0 || equals < colon + 2 || equals + 1 == text.size())
      fail(ErrorCode::Usage, "--override: '", text, "' is not kind:name=id, as in quantizer:mine=org.example.mine");
    Override wish{text.substr(0, colon), text.substr(colon + 1, equals - colon - 1), text.substr(equals + 1)};
    const auto& kinds = manifest_kinds();
    if (std::find(kinds.begin(), kinds.end(), wish.kind) == kinds.end())
      fail(ErrorCode::Usage, "--override ", text, ": there is no kind '", wish.kind, "', the kinds are: ", join(kinds, ", "),
           did_you_mean(wish.kind, kinds));
    for (const auto& other : all)
      if (Provides{other.kind, other.name, {}}.is(wish.kind, wish.name) && other.id != wish.id)
        fail(ErrorCode::Usage, "--override ", text, " contradicts --override ", other.text(), ": keep one of them");
    all.push_back(std::move(wish));
  }
  return all;
}

void apply_override(Discovery& found, const Override& wish) {
  const std::string flag = "--override " + wish.text();
  const PluginFile *chosen = nullptr, *refused = nullptr;
  std::vector<std::string> ids;
  for (const auto& file : found.files) {
    ids.push_back(file.id());
    if (file.id() == wish.id) (file.state == PluginState::Available ? chosen : refused) = &file;
  }
  if (!chosen && refused) {
    std::string text = concat(flag, ": that plugin cannot be used, ", refused->path.string(), ":");
    for (const auto& reason : refused->reasons) text += "\n    - " + reason;
    throw Error(ErrorCode::Plugin, text);
  }
  if (!chosen)
    fail(ErrorCode::Plugin, flag, ": no plugin here has the id '", wish.id, "'", did_you_mean(wish.id, ids),
         ": host plugins list shows ids behind the names, --plugin FILE adds a file");
  auto is_meant = [&](const Provides& row) { return row.is(wish.kind, wish.name); };
  if (std::none_of(chosen->provides.begin(), chosen->provides.end(), is_meant)) {
    std::vector<std::string> names;
    for (const auto& row : chosen->provides) names.push_back(row.kind + ":" + row.name);
    fail(ErrorCode::Plugin, flag, ": ", wish.id, " provides ", join(names, ", "), ", not ", wish.kind, " '", wish.name, "'",
         did_you_mean(wish.kind + ":" + wish.name, names));
  }
  for (auto& file : found.files)
    for (auto& row : file.provides)
      if (&file != chosen && is_meant(row)) row.overridden_by = wish.id;
}

}  // namespace tenon::host
