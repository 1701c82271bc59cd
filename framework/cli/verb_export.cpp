#include <cstdio>

#include "base/json.h"
#include "cli/session_options.h"

namespace tenon::host {

int verb_export(const Args& args) {
  const std::string to = required_flag(args, "to");
  Session session(args.recipe, session_options(args));
  const Value result = session.export_to(to, args.get<std::string>("format").value_or(""), args.on("merge"), args.on("verify"));
  if (args.json) std::printf("%s\n", to_json(result).c_str());
  return 0;
}

}  // namespace tenon::host
