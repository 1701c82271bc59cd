#pragma once
// From command-line arguments to a session, for the verbs that are clients of one.
#include "cli/args.h"
#include "tenon/session.h"

namespace tenon::host {

inline SessionOptions session_options(const Args& args) {
  return {.settings = args.settings,
          .plugin_dirs = args.search.plugin_dirs,
          .plugin_files = args.search.plugin_files,
          .bundled_plugins_only = args.search.bundled_only,
          .plugin_mode = args.search.mode,
          .overrides = args.search.overrides};
}

// A flag that the verb cannot do without.
inline std::string required_flag(const Args& args, const std::string& flag) {
  const auto value = args.get<std::string>(flag);
  if (!value) fail(ErrorCode::Usage, "--", flag, " is missing (see --help)");
  return *value;
}

}  // namespace tenon::host
