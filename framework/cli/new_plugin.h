#pragma once
// `host plugins new`: a small plugin project that builds against the installed SDK. Its files come from sdk/templates/ and are part of this program.
#include <string>

#include "cli/args.h"

namespace tenon::host {

// Writes the project NAME for a kind into a new folder (--to, by default ./NAME) and returns what to do next. Error(Usage) for a kind, tier or name that
// cannot be, and for a folder that holds something.
std::string new_plugin(const Args& args, const std::string& kind, const std::string& name);

}  // namespace tenon::host
