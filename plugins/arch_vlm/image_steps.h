#pragma once
// The steps from a picture to what a tower takes, as transformers' torchvision-backed processors do them: the same kernels in the same order.
#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "tenon/media.h"
#include "tenon/nn/config_reader.h"
#include "tenon/value.h"

namespace tenon::vlm {

enum class Resample { Nearest, Bilinear, Bicubic };

struct Size {
  int64_t height = 0, width = 0;
  friend bool operator==(const Size&, const Size&) = default;
};

// preprocessor_config.json, absent keys as the processor class has them.
struct ImageSteps {
  bool pads_to_square = false, resizes = true, crops = true, rescales = true, normalizes = true;
  std::optional<int64_t> shortest_edge;  // else `size`
  Size size, crop;
  Resample resample = Resample::Bicubic;
  double rescale_factor = 1.0 / 255;
  std::array<double, 3> mean = {0.48145466, 0.4578275, 0.40821073}, std = {0.26862954, 0.26130258, 0.27577711};  // CLIP's
};

// The keys that say what becomes of pixels: all but sizes and crops; what the file leaves out stays as it is in `steps`. Problems stay with the reader, whose error finish_steps heads with the file.
void read_pixel_steps(nn::ConfigReader& reader, ImageSteps& steps);
void finish_steps(const nn::ConfigReader& reader, const ProcessorFiles& files, const std::string& file = "preprocessor_config.json");

// Error(Data) naming everything that is wrong or not served. `edge`: of the tower's pictures, for files that say nothing.
ImageSteps read_image_steps(const ProcessorFiles& files, int64_t edge, bool is_siglip);

// What `size` makes of a picture's.
Size resized(const ImageSteps& steps, Size picture);

// rgb: [3, height, width] uint8 -> the same, larger or smaller, with antialiasing.
at::Tensor resize(const at::Tensor& rgb, Size size, Resample resample);
// Around the middle; what lies outside is black.
at::Tensor center_crop(const at::Tensor& rgb, Size size);
// -> float32, scaled, less the mean, by the deviation.
at::Tensor normalize(const at::Tensor& rgb, const ImageSteps& steps);

// All of it.
at::Tensor apply(const ImageSteps& steps, const at::Tensor& rgb);

}  // namespace tenon::vlm
