#include "qwen_processor.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>

#include "image_file.h"
#include "tenon/error.h"

namespace tenon::vlm {

namespace {

constexpr int64_t kMaxPixels = int64_t{1} << 40;
constexpr int64_t kMinPixels = 56 * 56, kDefaultMaxPixels = 28 * 28 * 1280;  // of the processor's class
constexpr double kMaxRatio = 200;

// Areas, under the names of edges; keys beside the table win over it.
std::pair<int64_t, int64_t> read_areas(nn::ConfigReader& reader) {
  int64_t smallest = kMinPixels, largest = kDefaultMaxPixels;
  if (const Value* size = reader.config().find_set("size")) {
    nn::ConfigReader inner(*size);
    const bool has_both = size->find_set("shortest_edge") && size->find_set("longest_edge");
    const bool is_beside = reader.config().find_set("min_pixels") && reader.config().find_set("max_pixels");
    if (has_both) smallest = inner.integer("shortest_edge", 1, 1, kMaxPixels), largest = inner.integer("longest_edge", 1, 1, kMaxPixels);
    if (!inner.ok() || (!has_both && !is_beside))
      reader.problem(
          concat("size is ", nn::ConfigReader::show(*size), ", expected {shortest_edge, longest_edge}, both of them areas in pixels"));
  }
  if (reader.config().find_set("min_pixels")) smallest = reader.integer("min_pixels", smallest, 1, kMaxPixels);
  if (reader.config().find_set("max_pixels")) largest = reader.integer("max_pixels", largest, 1, kMaxPixels);
  return {smallest, largest};
}

}  // namespace

Size smart_resize(Size picture, int64_t factor, int64_t min_pixels, int64_t max_pixels) {
  const auto height = static_cast<double>(picture.height), width = static_cast<double>(picture.width), step = static_cast<double>(factor);
  if (std::max(height, width) / std::min(height, width) > kMaxRatio)
    fail(ErrorCode::Data, "a picture of ", picture.width, " x ", picture.height, " is a strip, expected a longer side of at most ",
         kMaxRatio, " times the shorter one: cut it");
  // Ties go to the even number, as Python rounds.
  const auto steps = [&](double x) { return static_cast<int64_t>(x) * factor; };
  Size size{steps(std::nearbyint(height / step)), steps(std::nearbyint(width / step))};
  if (size.height * size.width > max_pixels) {
    const double by = std::sqrt(height * width / static_cast<double>(max_pixels));
    size = {std::max(factor, steps(std::floor(height / by / step))), std::max(factor, steps(std::floor(width / by / step)))};
  } else if (size.height * size.width < min_pixels) {
    const double by = std::sqrt(static_cast<double>(min_pixels) / (height * width));
    size = {steps(std::ceil(height * by / step)), steps(std::ceil(width * by / step))};
  }
  return size;
}

at::Tensor patchify(const at::Tensor& rgb, int64_t patch, int64_t merge, int64_t frames) {
  const int64_t rows = rgb.size(1) / patch, columns = rgb.size(2) / patch;
  const at::Tensor squares = rgb.reshape({3, rows / merge, merge, patch, columns / merge, merge, patch}).permute({1, 4, 2, 5, 0, 3, 6});
  return squares.unsqueeze(5)
      .expand({rows / merge, columns / merge, merge, merge, 3, frames, patch, patch})
      .reshape({rows * columns, 3 * frames * patch * patch});
}

QwenProcessor::QwenProcessor(const QwenVlConfig& config, const ProcessorFiles& files)
    : image_token_(config.image_token),
      patch_(config.vision.patch),
      temporal_patch_(config.vision.temporal_patch),
      merge_(config.vision.merge),
      limit_(files.decode_limit) {
  if (files.image_size)
    fail(ErrorCode::Recipe,
         "media.image_size is for models with one size of pictures, this one takes many: set media.min_pixels and media.max_pixels");
  const Value none = Value::table();
  nn::ConfigReader reader(files.preprocessor.is_null() ? none : files.preprocessor);
  read_pixel_steps(reader, steps_);
  std::tie(min_pixels_, max_pixels_) = read_areas(reader);
  for (const auto& [key, fallback, own] :
       {std::tuple{"patch_size", 14, patch_}, {"temporal_patch_size", 2, temporal_patch_}, {"merge_size", 2, merge_}})
    if (const int64_t value = reader.integer(key, fallback, 1, 1 << 12); value != own)
      reader.problem(
          concat(key, " is ", value, ", the tower's is ", own, ": preprocessor_config.json and config.json are of different models"));
  finish_steps(reader, files);
  if (files.min_pixels) min_pixels_ = *files.min_pixels;
  if (files.max_pixels) max_pixels_ = *files.max_pixels;
  if (min_pixels_ > max_pixels_)
    fail(files.min_pixels || files.max_pixels ? ErrorCode::Recipe : ErrorCode::Data, "min_pixels is ", min_pixels_,
         ", expected max_pixels (", max_pixels_, ") or less");
}

Size QwenProcessor::target(Size picture) const {
  const int64_t factor = patch_ * merge_;
  if (steps_.resizes) return smart_resize(picture, factor, min_pixels_, max_pixels_);
  if (picture.height % factor || picture.width % factor)
    fail(ErrorCode::Data, "it has ", picture.width, " x ", picture.height, " pixels, expected multiples of ", factor,
         ", because do_resize is false");
  return picture;
}

std::vector<int64_t> QwenProcessor::tokens(const Medium& medium) const {
  const ImageHeader header = read_image_header(medium.file, limit_);
  const Size size = with_context(medium.file, [&] { return target({header.height, header.width}); });
  const int64_t edge = patch_ * merge_;
  return std::vector<int64_t>(static_cast<size_t>(size.height / edge * (size.width / edge)), image_token_);
}

std::map<std::string, at::Tensor> QwenProcessor::load(const std::vector<Medium>& media) const {
  std::vector<at::Tensor> pictures;
  std::vector<int64_t> grids;
  for (const Medium& medium : media) {
    const at::Tensor rgb = read_image(medium.file, limit_);
    const Size size = with_context(medium.file, [&] { return target({rgb.size(1), rgb.size(2)}); });
    pictures.push_back(patchify(normalize(resize(rgb, size, steps_.resample), steps_), patch_, merge_, temporal_patch_));
    grids.insert(grids.end(), {1, size.height / patch_, size.width / patch_});
  }
  return {{"pixel_values", pictures.size() == 1 ? pictures[0] : at::cat(pictures)},
          {"image_grid_thw", at::tensor(grids, at::kLong).view({-1, 3})}};
}

}  // namespace tenon::vlm
