// The one field of EXIF that changes a picture.
#include <cstring>

#include "image_codec.h"

namespace tenon::vlm {

namespace {
constexpr uint16_t kOrientation = 0x0112, kShort = 3;
constexpr size_t kEntryBytes = 12;

struct Reader {
  Bytes bytes;
  bool big = false;
  // 0 behind the end.
  uint32_t number(size_t at, size_t count) const {
    if (at > bytes.size() || count > bytes.size() - at) return 0;
    uint32_t value = 0;
    for (size_t i = 0; i < count; ++i) value = value << 8 | bytes[at + (big ? i : count - 1 - i)];
    return value;
  }
};
}  // namespace

int exif_orientation(Bytes tiff) {
  Reader reader{tiff};
  if (tiff.size() < 8) return 1;
  if (std::memcmp(tiff.data(), "MM", 2) == 0)
    reader.big = true;
  else if (std::memcmp(tiff.data(), "II", 2) != 0)
    return 1;
  if (reader.number(2, 2) != 42) return 1;
  const size_t directory = reader.number(4, 4);
  const size_t entries = reader.number(directory, 2);
  for (size_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + i * kEntryBytes;
    if (entry + kEntryBytes > tiff.size()) return 1;
    if (reader.number(entry, 2) != kOrientation || reader.number(entry + 2, 2) != kShort) continue;
    const auto value = static_cast<int>(reader.number(entry + 8, 2));
    return value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}

}  // namespace tenon::vlm
