#include "image_file.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/flip.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "image_codec.h"
#include "media_file.h"
#include "tenon/error.h"

namespace tenon::vlm {

namespace {

constexpr uintmax_t kMaxFileBytes = uintmax_t{512} << 20, kHeaderBytes = uintmax_t{1} << 20;

struct Codec {
  ImageFormat format;
  RawHeader (*header)(Bytes);
  void (*decode)(Bytes, const RawHeader&, uint8_t*);
};
constexpr Codec kCodecs[] = {
    {ImageFormat::Jpeg, jpeg_header, decode_jpeg},
    {ImageFormat::Png, png_header, decode_png},
    {ImageFormat::Webp, webp_header, decode_webp},
};

uintmax_t size_of(const std::string& file) {
  const uintmax_t bytes = media_file_size(file);
  if (bytes > kMaxFileBytes) fail(ErrorCode::Data, "it has ", bytes >> 20, " MiB, expected ", kMaxFileBytes >> 20, " or less");
  return bytes;
}

// By what the file begins with; its name says nothing.
const Codec& codec_of(Bytes bytes) {
  const auto begins = [&](size_t at, const char* text, size_t count) {
    return bytes.size() >= at + count && std::memcmp(bytes.data() + at, text, count) == 0;
  };
  if (begins(0, "\xFF\xD8\xFF", 3)) return kCodecs[0];
  if (begins(0, "\x89PNG\r\n\x1A\n", 8)) return kCodecs[1];
  if (begins(0, "RIFF", 4) && begins(8, "WEBP", 4)) return kCodecs[2];
  fail(ErrorCode::Data, bytes.empty() ? "it is empty" : "it is no JPEG, PNG or WebP", ", the formats that are read");
}

RawHeader checked_header(const Codec& codec, Bytes bytes, int64_t limit) {
  const RawHeader header = codec.header(bytes);
  if (header.width < 1 || header.height < 1) fail(ErrorCode::Data, "its header says ", header.width, " x ", header.height, " pixels");
  if (header.width > limit / header.height)
    fail(ErrorCode::Data, "its header says ", header.width, " x ", header.height, " pixels, expected ", limit,
         " or less in all (media.decode_limit)");
  return header;
}

bool is_turned(int orientation) { return orientation >= 5; }

// x: [3, height, width] as stored.
at::Tensor upright(at::Tensor x, int orientation) {
  if (is_turned(orientation)) x = x.transpose(1, 2);
  // Of the eight, these mirror left and right, and these top and bottom, after the transposition.
  const bool mirrors = orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
  const bool topples = orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
  if (mirrors) x = at::flip(x, {2});
  if (topples) x = at::flip(x, {1});
  return x.contiguous();
}

}  // namespace

ImageHeader read_image_header(const std::string& file, int64_t limit) {
  return with_context(file, [&] {
    const uintmax_t size = size_of(file);
    std::vector<uint8_t> bytes = read_media_bytes(file, std::min(size, kHeaderBytes));
    const Codec& codec = codec_of(bytes);
    RawHeader header;
    try {
      header = checked_header(codec, bytes, limit);
    } catch (const Error&) {
      if (size <= kHeaderBytes) throw;
      bytes = read_media_bytes(file, size);  // what stands before the size can be long
      header = checked_header(codec, bytes, limit);
    }
    if (is_turned(header.orientation)) std::swap(header.width, header.height);
    return ImageHeader{codec.format, header.width, header.height, header.orientation};
  });
}

at::Tensor read_image(const std::string& file, int64_t limit) {
  return with_context(file, [&] {
    const std::vector<uint8_t> bytes = read_media_bytes(file, size_of(file));
    const Codec& codec = codec_of(bytes);
    const RawHeader header = checked_header(codec, bytes, limit);
    const at::Tensor pixels = at::empty({header.height, header.width, 3}, at::kByte);
    codec.decode(bytes, header, pixels.mutable_data_ptr<uint8_t>());
    return upright(pixels.permute({2, 0, 1}), header.orientation);
  });
}

}  // namespace tenon::vlm
