#include "audio_container.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <span>

#include "media_file.h"
#include "tenon/error.h"

namespace tenon::vlm {

namespace {

using Bytes = std::span<const uint8_t>;

constexpr uintmax_t kHeadBytes = 16;
constexpr int kMaxChunks = 10'000;
// What writers put for a length that they never learn, because what they write to cannot be wound back.
constexpr uint32_t kUnknown = 0xFFFFFFFF;

bool has(Bytes bytes, size_t at, const char* text) {
  const size_t count = std::strlen(text);
  return bytes.size() >= at + count && std::memcmp(bytes.data() + at, text, count) == 0;
}

uint32_t little(const uint8_t* b) { return b[0] | b[1] << 8 | b[2] << 16 | static_cast<uint32_t>(b[3]) << 24; }

// libsndfile takes what is there and says nothing.
void check_wav(const std::string& file, uintmax_t size, bool is_streamed) {
  std::ifstream stream(file, std::ios::binary);
  uint8_t chunk[8];
  uintmax_t at = 12;
  for (int i = 0; i < kMaxChunks && at + sizeof chunk <= size; ++i) {
    stream.seekg(static_cast<std::streamoff>(at));
    if (!stream.read(reinterpret_cast<char*>(chunk), sizeof chunk)) break;
    const uintmax_t length = little(chunk + 4);
    at += sizeof chunk;
    if (std::memcmp(chunk, "data", 4) == 0) {
      if (length > size - at && !(is_streamed && length == kUnknown))
        fail(ErrorCode::Data, "it is cut off: its header says ", length, " bytes of sound, ", size - at, " are there");
      return;
    }
    at += length + length % 2;
  }
  fail(ErrorCode::Data, "it is damaged: a WAV without sound in it");
}

// The length of an MP3 is in its first frame, if it is anywhere; without it, decoders guess.
bool has_length(const std::string& file, uintmax_t size, Bytes head) {
  constexpr uintmax_t kFrameHead = 64;
  uintmax_t begin = 0;
  if (has(head, 0, "ID3") && head.size() >= 10) {
    for (size_t i = 6; i < 10; ++i) begin = begin << 7 | (head[i] & 0x7F);
    begin += 10;
  }
  if (begin >= size) return false;
  const auto frame = read_media_bytes(file, std::min(kFrameHead, size - begin), begin);
  for (const char* tag : {"Xing", "Info"})
    if (std::search(frame.begin(), frame.end(), tag, tag + 4) != frame.end()) return true;
  return false;
}

}  // namespace

Container look_at_container(const std::string& file) {
  const uintmax_t size = media_file_size(file);
  const auto head = read_media_bytes(file, std::min(size, kHeadBytes));
  if (has(head, 0, "RIFF") && has(head, 8, "WAVE")) {
    check_wav(file, size, little(head.data() + 4) == kUnknown);
    return {};
  }
  if (has(head, 0, "fLaC") || has(head, 0, "OggS")) return {};
  if (has(head, 0, "ID3") || (head.size() > 1 && head[0] == 0xFF && (head[1] & 0xE0) == 0xE0))
    return {.tells_length = has_length(file, size, head)};
  fail(ErrorCode::Data, head.empty() ? "it is empty" : "it is no WAV, FLAC, MP3 or OGG", ", the formats that are read");
}

}  // namespace tenon::vlm
