#include "llava_next_processor.h"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include <algorithm>

#include "image_file.h"
#include "llava_tiles.h"
#include "tenon/error.h"

namespace tenon::vlm {

namespace {
constexpr int64_t kClassEdge = 224;  // of sizes that the file leaves out
}

LlavaNextProcessor::LlavaNextProcessor(const LlavaConfig& config, const ProcessorFiles& files)
    : image_token_(config.image_token),
      edge_(config.vision.image_size),
      side_(config.vision.side()),
      limit_(files.decode_limit),
      pinpoints_(config.pinpoints),
      steps_(read_image_steps(files, files.preprocessor.is_null() ? edge_ : kClassEdge, /*is_siglip=*/false)) {
  if (files.image_size || files.min_pixels || files.max_pixels)
    fail(ErrorCode::Recipe,
         "media.image_size, media.min_pixels and media.max_pixels do not change this model's pictures, whose sizes are "
         "image_grid_pinpoints: leave them out");
  steps_.pads_to_square = false;  // do_pad speaks of views
  const Size whole = steps_.shortest_edge ? Size{*steps_.shortest_edge, *steps_.shortest_edge} : steps_.size;
  const Size made = steps_.crops ? steps_.crop : whole;
  if (steps_.crop != Size{edge_, edge_} || made != steps_.crop || (!steps_.resizes && whole != made))
    fail(ErrorCode::Data, files.folder, ": the image processor makes views of ", made.width, " x ", made.height, " from tiles of ",
         steps_.crop.height, " pixels, the tower takes ", edge_, " x ", edge_,
         ": preprocessor_config.json and config.json are of different models");
  std::vector<std::string> problems;
  const Value* given = files.preprocessor.find_set("image_grid_pinpoints");
  const bool is_silent = files.preprocessor.is_null();
  if (!is_silent && read_pinpoints(given, problems) != pinpoints_)
    problems.push_back("image_grid_pinpoints are not those of config.json: the two files are of different models");
  if (!problems.empty()) fail(ErrorCode::Data, files.folder, "/preprocessor_config.json: ", problems.front());
}

std::vector<int64_t> LlavaNextProcessor::tokens(const Medium& medium) const {
  const ImageHeader header = read_image_header(medium.file, limit_);
  const Tiling tiling = tile({header.height, header.width}, pinpoints_, edge_, side_);
  return std::vector<int64_t>(static_cast<size_t>(tiling.tokens(side_)), image_token_);
}

at::Tensor LlavaNextProcessor::views(const at::Tensor& rgb) const {
  const Size picture{rgb.size(1), rgb.size(2)}, best = best_resolution(picture, pinpoints_), inner = fitted(picture, best);
  const Size whole = steps_.shortest_edge ? Size{*steps_.shortest_edge, *steps_.shortest_edge} : steps_.size;
  std::vector<at::Tensor> views = {apply(steps_, resize(rgb, whole, steps_.resample))};
  const int64_t left = (best.width - inner.width) / 2, top = (best.height - inner.height) / 2;
  const at::Tensor large = at::constant_pad_nd(resize(rgb, inner, steps_.resample),
                                               {left, best.width - inner.width - left, top, best.height - inner.height - top}, 0);
  for (int64_t y = 0; y < best.height; y += edge_)
    for (int64_t x = 0; x < best.width; x += edge_)
      views.push_back(apply(steps_, large.narrow(1, y, edge_).narrow(2, x, edge_).contiguous()));
  return at::stack(views);
}

std::map<std::string, at::Tensor> LlavaNextProcessor::load(const std::vector<Medium>& media) const {
  std::vector<at::Tensor> pictures;
  std::vector<int64_t> sizes;
  int64_t most = 0;
  for (const Medium& medium : media) {
    const at::Tensor rgb = read_image(medium.file, limit_);
    sizes.insert(sizes.end(), {rgb.size(1), rgb.size(2)});
    pictures.push_back(views(rgb));
    most = std::max(most, pictures.back().size(0));
  }
  for (at::Tensor& picture : pictures) picture = at::constant_pad_nd(picture, {0, 0, 0, 0, 0, 0, 0, most - picture.size(0)}, 0);
  return {{"pixel_values", at::stack(pictures)}, {"image_sizes", at::tensor(sizes, at::kLong).view({-1, 2})}};
}

}  // namespace tenon::vlm
