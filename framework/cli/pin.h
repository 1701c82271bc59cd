#pragma once
// `host plugins pin`: which files the user trusts, kept by id and sha256. No plugin runs.
#include <string>

#include "cli/args.h"

namespace tenon::host {

// Pins what `name` means ("": every usable file that did not come with the host), or forgets it; sets the mode when one is given. Returns what it did, as
// text or JSON. Error(Plugin) for a file that is refused for another reason than the mode: what cannot be used is not worth trusting.
std::string pin_plugins(const Args& args, const std::string& name);

}  // namespace tenon::host
