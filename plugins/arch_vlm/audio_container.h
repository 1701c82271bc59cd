#pragma once
// What the first bytes of a sound file say, before a decoder sees it.
#include <string>

namespace tenon::vlm {

struct Container {
  bool tells_length = true;  // false: only decoding it shows how long it is
};

// Error(Data), without the file's name: absent, none of WAV, FLAC, MP3 and OGG, or a WAV that ends before its header says.
Container look_at_container(const std::string& file);

}  // namespace tenon::vlm
