#include "cli/bench.h"
#include "cli/session_options.h"
#include "session/workspace.h"

namespace tenon::host {

int verb_bench(const Args& args) {
  Workspace work(args.recipe, session_options(args));
  bench(work.recipe, *work.registry, args.words);
  return 0;
}

}  // namespace tenon::host
