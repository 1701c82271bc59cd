#include <fmt/format.h>

#include <cstdio>

#include "base/json.h"
#include "cli/session_options.h"

namespace tenon::host {

int verb_eval(const Args& args) {
  Session session(args.recipe, session_options(args));
  const Value result = session.evaluate();
  if (args.json)
    std::printf("%s\n", to_json(result).c_str());
  else
    std::printf("%s\n", fmt::format("loss {:.6f}, perplexity {:.4f}, {} tokens", result.at("loss").as_float(),
                                    result.at("perplexity").as_float(), result.at("tokens").as_int())
                            .c_str());
  return 0;
}

}  // namespace tenon::host
