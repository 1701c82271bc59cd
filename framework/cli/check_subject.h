#pragma once
// One plugin file as the conformance kit sees it: what the host reads in it and thinks of it.
#include "conformance/check.h"

namespace tenon::host {

// Reads the file and runs nothing of it. Error(Usage) when it is not there.
conformance::Subject check_subject(const std::filesystem::path& file);

}  // namespace tenon::host
