#pragma once
// Bytes of a medium's file, taken with care: no directories, no pipes. Errors are Error(Data) without the file's name.
#include <cstdint>
#include <string>
#include <vector>

namespace tenon::vlm {

// Of a regular file.
uintmax_t media_file_size(const std::string& file);
// `count` of them from `begin`; there must be as many.
std::vector<uint8_t> read_media_bytes(const std::string& file, uintmax_t count, uintmax_t begin = 0);

}  // namespace tenon::vlm
