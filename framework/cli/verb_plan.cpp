#include <cstdio>

#include "base/json.h"
#include "cli/session_options.h"

namespace tenon::host {

int verb_plan(const Args& args) {
  SessionOptions options = session_options(args);
  options.assume_devices = args.get<std::string>("assume-devices").value_or("");
  Session session(args.recipe, options);
  if (args.json)
    std::printf("%s\n", to_json(session.plan(), 2).c_str());
  else
    std::printf("%s", session.plan_text().c_str());
  return 0;
}

}  // namespace tenon::host
