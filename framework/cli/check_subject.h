#pragma once
// One plugin file as the conformance kit sees it: what the host reads in it and thinks of it.
#include "conformance/check.h"

namespace tenon::host {

// Reads the file and runs nothing of it; also takes the id of a plugin that is linked into libtenon.so, which is then Subject::file as it stands,
// while a file's is absolute. Error(Usage) when there is neither.
conformance::Subject check_subject(const std::filesystem::path& file_or_id);

}  // namespace tenon::host
