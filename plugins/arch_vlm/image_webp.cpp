// WebP through libwebp.
#include <webp/decode.h>

#include "image_codec.h"
#include "tenon/error.h"

namespace tenon::vlm {

RawHeader webp_header(Bytes bytes) {
  WebPBitstreamFeatures features;
  if (WebPGetFeatures(bytes.data(), bytes.size(), &features) != VP8_STATUS_OK)
    fail(ErrorCode::Data, "a damaged WebP: its header cannot be read");
  if (features.has_animation) fail(ErrorCode::Data, "an animated WebP, expected one picture: save the frame that is meant");
  return {features.width, features.height, 1};
}

void decode_webp(Bytes bytes, const RawHeader& header, uint8_t* rgb) {
  const auto stride = static_cast<int>(header.width * 3);
  if (!WebPDecodeRGBInto(bytes.data(), bytes.size(), rgb, static_cast<size_t>(header.height) * static_cast<size_t>(stride), stride))
    fail(ErrorCode::Data, "a damaged WebP: its picture cannot be decoded");
}

}  // namespace tenon::vlm
