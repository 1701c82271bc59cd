#include <cstdio>

#include "base/json.h"
#include "cli/session_options.h"

namespace tenon::host {

int verb_run(const Args& args) {
  if (args.on("resume"))
    fail(ErrorCode::Usage,
         "--resume is a capability that this version does not have: continue an adapter's weights with [adapter] path = \"FOLDER\"");
  Session session(args.recipe, session_options(args));
  const Value result = session.run();
  if (args.json) std::printf("%s\n", to_json(result, 2).c_str());
  return 0;
}

}  // namespace tenon::host
