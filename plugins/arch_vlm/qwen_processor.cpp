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

void check_multiple(Size picture, int64_t factor) {
  if (picture.height % factor || picture.width % factor)
    fail(ErrorCode::Data, "it has ", picture.width, " x ", picture.height, " pixels, expected multiples of ", factor,
         ", because do_resize is false");
}

at::Tensor patchify(const at::Tensor& frames, int64_t patch, int64_t merge) {
  const int64_t count = frames.size(0), rows = frames.size(2) / patch, columns = frames.size(3) / patch;
  return frames.unflatten(3, {columns / merge, merge, patch})
      .unflatten(2, {rows / merge, merge, patch})
      .permute({2, 5, 3, 6, 1, 0, 4, 7})
      .reshape({rows * columns, 3 * count * patch * patch});
}

// Areas, under the names of edges; keys beside the table win over it.
std::pair<int64_t, int64_t> read_areas(nn::ConfigReader& reader, int64_t least, int64_t largest) {
  if (const Value* size = reader.config().find_set("size")) {
    nn::ConfigReader inner(*size);
    for (const auto& [edge, beside, value] : {std::tuple{"shortest_edge", "min_pixels", &least}, {"longest_edge", "max_pixels", &largest}})
      if (inner.config().find_set(edge))
        *value = inner.integer(edge, 1, 1, kMaxPixels);
      else if (!reader.config().find_set(beside))
        inner.problem("an edge is absent");
    if (!inner.ok())
      reader.problem(
          concat("size is ", nn::ConfigReader::show(*size), ", expected {shortest_edge, longest_edge}, both of them areas in pixels"));
  }
  if (reader.config().find_set("min_pixels")) least = reader.integer("min_pixels", least, 1, kMaxPixels);
  if (reader.config().find_set("max_pixels")) largest = reader.integer("max_pixels", largest, 1, kMaxPixels);
  return {least, largest};
}

void check_shape(nn::ConfigReader& reader, const QwenVisionConfig& tower) {
  for (const auto& [key, fallback, own] :
       {std::tuple{"patch_size", 14, tower.patch}, {"temporal_patch_size", 2, tower.temporal_patch}, {"merge_size", 2, tower.merge}})
    if (const int64_t value = reader.integer(key, fallback, 1, 1 << 12); value != own)
      reader.problem(
          concat(key, " is ", value, ", the tower's is ", own, ": the processor's file and config.json are of different models"));
}

QwenProcessor::QwenProcessor(const QwenVlConfig& config, const ProcessorFiles& files, bool takes_videos)
    : image_token_(config.image_token),
      video_token_(config.video_token),
      patch_(config.vision.patch),
      temporal_patch_(config.vision.temporal_patch),
      merge_(config.vision.merge),
      limit_(files.decode_limit),
      takes_videos_(takes_videos),
      knows_times_(config.family->is_windowed),
      video_(config, files) {
  if (files.image_size)
    fail(ErrorCode::Recipe,
         "media.image_size is for models with one size of pictures, this one takes many: set media.min_pixels and media.max_pixels");
  const Value none = Value::table();
  nn::ConfigReader reader(files.preprocessor.is_null() ? none : files.preprocessor);
  read_pixel_steps(reader, steps_);
  std::tie(min_pixels_, max_pixels_) = read_areas(reader, kMinPixels, kDefaultMaxPixels);
  check_shape(reader, config.vision);
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
  check_multiple(picture, factor);
  return picture;
}

std::vector<int64_t> QwenProcessor::tokens(const Medium& medium) const {
  const int64_t edge = patch_ * merge_;
  const auto repeated = [&](int64_t layers, Size size, int64_t token) {
    return std::vector<int64_t>(static_cast<size_t>(layers * (size.height / edge) * (size.width / edge)), token);
  };
  if (medium.kind == "video") {
    const QwenVideo::Shape shape = video_.shape(medium.file);
    return repeated(shape.layers, shape.size, video_token_);
  }
  const ImageHeader header = read_image_header(medium.file, limit_);
  return repeated(1, with_context(medium.file, [&] { return target({header.height, header.width}); }), image_token_);
}

std::map<std::string, at::Tensor> QwenProcessor::load(const std::vector<Medium>& media) const {
  std::vector<at::Tensor> pictures, videos;
  std::vector<int64_t> grids, video_grids;
  std::vector<double> seconds;
  for (const Medium& medium : media) {
    if (medium.kind == "video") {
      const QwenVideo::Shape shape = video_.shape(medium.file);
      videos.push_back(video_.load(shape));
      video_grids.insert(video_grids.end(), {shape.layers, shape.size.height / patch_, shape.size.width / patch_});
      seconds.push_back(shape.seconds);
      continue;
    }
    const at::Tensor rgb = read_image(medium.file, limit_);
    const Size size = with_context(medium.file, [&] { return target({rgb.size(1), rgb.size(2)}); });
    const at::Tensor picture = normalize(resize(rgb, size, steps_.resample), steps_);
    pictures.push_back(patchify(picture.unsqueeze(0).expand({temporal_patch_, -1, -1, -1}), patch_, merge_));
    grids.insert(grids.end(), {1, size.height / patch_, size.width / patch_});
  }
  std::map<std::string, at::Tensor> loaded;
  const auto put = [&](const std::string& pixels, std::vector<at::Tensor>& patches, const std::string& thw,
                       const std::vector<int64_t>& sides) {
    if (patches.empty()) return;
    loaded[pixels] = patches.size() == 1 ? patches[0] : at::cat(patches);
    loaded[thw] = at::tensor(sides, at::kLong).view({-1, 3});
  };
  put("pixel_values", pictures, "image_grid_thw", grids);
  put("pixel_values_videos", videos, "video_grid_thw", video_grids);
  if (knows_times_ && !videos.empty()) loaded["second_per_grid_ts"] = at::tensor(seconds, at::kDouble).to(at::kFloat);
  return loaded;
}

}  // namespace tenon::vlm
