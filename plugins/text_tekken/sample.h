#pragma once
// A small tekken.json, for checks: 26 special tokens, the 256 bytes, "ab".
#include <string>

namespace tenon::text_tekken {

std::string sample_tekken();

}  // namespace tenon::text_tekken
