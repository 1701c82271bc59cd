#pragma once
// One format's decoder, over bytes in memory. Errors are Error(Data) without the file's name.
#include <cstdint>
#include <span>

namespace tenon::vlm {

using Bytes = std::span<const uint8_t>;

struct RawHeader {
  int64_t width = 0, height = 0;  // as stored
  int orientation = 1;
};

RawHeader jpeg_header(Bytes bytes);
RawHeader png_header(Bytes bytes);
RawHeader webp_header(Bytes bytes);

// `rgb` holds height * width * 3 bytes, as the header said.
void decode_jpeg(Bytes bytes, const RawHeader& header, uint8_t* rgb);
void decode_png(Bytes bytes, const RawHeader& header, uint8_t* rgb);
void decode_webp(Bytes bytes, const RawHeader& header, uint8_t* rgb);

// The orientation in a block of EXIF, which begins with its TIFF header; 1 where it says none.
int exif_orientation(Bytes tiff);

}  // namespace tenon::vlm
