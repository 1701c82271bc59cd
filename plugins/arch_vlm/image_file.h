#pragma once
// Picture files -> red, green and blue. JPEG, PNG and WebP through their own libraries; a file's header is believed only within a limit, so that
// what a hostile one makes us hold is bounded.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace tenon::vlm {

enum class ImageFormat { Jpeg, Png, Webp };

struct ImageHeader {
  ImageFormat format = ImageFormat::Jpeg;
  int64_t width = 0, height = 0;  // as shown: after the turn that EXIF asks for
  int orientation = 1;            // EXIF's, 1 to 8
};

// Reads no more than it needs. Error(Data), naming the file: absent, no picture of these formats, damaged, more than `limit` pixels.
ImageHeader read_image_header(const std::string& file, int64_t limit);

// -> [3, height, width] uint8, turned as EXIF asks. What is transparent keeps the colour it is stored with; grey becomes three equal channels; of 16
// bits the upper 8 count. Error(Data) for a damaged or truncated file too.
at::Tensor read_image(const std::string& file, int64_t limit);

}  // namespace tenon::vlm
