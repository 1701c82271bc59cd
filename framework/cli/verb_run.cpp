#include <cstdio>

#include "base/json.h"
#include "cli/session_options.h"

namespace tenon::host {

int verb_run(const Args& args) {
  Session session(args.recipe, session_options(args));
  const Value result = session.run(args.on("resume"));
  if (args.json) std::printf("%s\n", to_json(result, 2).c_str());
  return 0;
}

}  // namespace tenon::host
