#include "llava_processor.h"

#include <ATen/ops/stack.h>

#include "image_file.h"
#include "tenon/error.h"

namespace tenon::vlm {

LlavaProcessor::LlavaProcessor(const LlavaConfig& config, const ProcessorFiles& files)
    : image_token_(config.image_token),
      tokens_(config.image_tokens()),
      image_size_(config.vision.image_size),
      limit_(files.decode_limit),
      steps_(read_image_steps(files, config.vision.image_size, config.vision.kind == TowerKind::Siglip)) {
  if (files.image_size && *files.image_size != image_size_)
    fail(ErrorCode::Recipe, "media.image_size is ", *files.image_size, ", and this tower takes ", image_size_, " alone: leave it out");
  if (files.min_pixels || files.max_pixels)
    fail(ErrorCode::Recipe, "media.min_pixels and media.max_pixels are for models that take pictures of many sizes, this tower takes ",
         image_size_, " x ", image_size_, " alone: leave them out");
  const Size made = steps_.crops ? steps_.crop : steps_.resizes && !steps_.shortest_edge ? steps_.size : Size{image_size_, image_size_};
  if (made != Size{image_size_, image_size_})
    fail(ErrorCode::Data, files.folder, ": the image processor makes ", made.width, " x ", made.height, " pixels, the tower takes ",
         image_size_, " x ", image_size_, ": preprocessor_config.json and config.json are of different models");
}

std::vector<int64_t> LlavaProcessor::tokens(const Medium& medium) const {
  read_image_header(medium.file, limit_);
  return std::vector<int64_t>(static_cast<size_t>(tokens_), image_token_);
}

std::map<std::string, at::Tensor> LlavaProcessor::load(const std::vector<Medium>& media) const {
  std::vector<at::Tensor> pictures;
  for (const Medium& medium : media) {
    at::Tensor picture = apply(steps_, read_image(medium.file, limit_));
    if (picture.size(1) != image_size_ || picture.size(2) != image_size_)
      fail(ErrorCode::Data, medium.file, ": becomes ", picture.size(2), " x ", picture.size(1), " pixels, the tower takes ", image_size_,
           " x ", image_size_, ": the image processor neither crops nor resizes to one shape");
    pictures.push_back(std::move(picture));
  }
  return {{"pixel_values", at::stack(pictures)}};
}

}  // namespace tenon::vlm
