#include "qwen_video.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "image_file.h"
#include "qwen_processor.h"
#include "tenon/error.h"
#include "tenon/json.h"

namespace tenon::vlm {

namespace {

constexpr int64_t kVideoMinPixels = 128 * 28 * 28, kVideoMaxPixels = 28 * 28 * 768;  // of the processor's class
constexpr int64_t kManyFrames = 1 << 20, kManyTokens = int64_t{1} << 32;
constexpr double kUntoldFps = 24;
const char* const kOwnFile = "video_preprocessor_config.json";

struct Table {
  Value value;
  std::string file;
};

Table find_table(const ProcessorFiles& files) {
  if (const Value* own = files.processor.find_set("video_processor")) return {*own, "processor_config.json"};
  const std::filesystem::path file = std::filesystem::path(files.folder) / kOwnFile;
  if (std::error_code ignored; std::filesystem::exists(file, ignored)) {
    std::ostringstream text;
    text << std::ifstream(file, std::ios::binary).rdbuf();
    return {parse_json(text.str(), file.string()), kOwnFile};
  }
  return {files.preprocessor.is_null() ? Value::table() : files.preprocessor, "preprocessor_config.json"};
}

}  // namespace

QwenVideo::QwenVideo(const QwenVlConfig& config, const ProcessorFiles& files)
    : patch_(config.vision.patch), temporal_patch_(config.vision.temporal_patch), merge_(config.vision.merge), limit_(files.decode_limit) {
  const Table table = find_table(files);
  nn::ConfigReader reader(table.value);
  read_pixel_steps(reader, steps_);
  std::tie(min_pixels_, max_pixels_) = read_areas(reader, kVideoMinPixels, kVideoMaxPixels);
  check_shape(reader, config.vision);
  picks_ = reader.flag("do_sample_frames", false);
  num_frames_ = reader.optional_integer("num_frames", 1, kManyFrames);
  if (reader.config().find_set("fps")) fps_ = reader.number("fps", 1, 1e-6, 1e6);
  if (picks_ && num_frames_ && fps_) reader.problem("num_frames and fps are both set, expected one of them");
  min_frames_ = reader.integer("min_frames", 4, 1, kManyFrames);
  max_frames_ = reader.integer("max_frames", 768, 1, kManyFrames);
  if (reader.config().find_set("cap_pixels_per_frame")) is_capped_ = reader.flag("cap_pixels_per_frame", false);
  max_video_tokens_ = reader.integer("max_video_tokens", 128000, 1, kManyTokens);
  finish_steps(reader, files, table.file);
  if (files.min_pixels) min_pixels_ = *files.min_pixels;
  if (files.max_pixels) max_pixels_ = *files.max_pixels;
  // A least area above the largest is left to smart_resize, as the reference does: with max_pixels of the recipe it is meant for pictures.
}

std::vector<int64_t> QwenVideo::pick(int64_t frames, std::optional<double> fps) const {
  const auto all = static_cast<double>(frames), step = static_cast<double>(temporal_patch_);
  double count = all;
  if (picks_ && num_frames_) {
    // Ties go to the even number, as Python rounds.
    count = std::nearbyint(static_cast<double>(*num_frames_) / step) * step;
  } else if (picks_ && fps_) {
    if (!fps)
      fail(ErrorCode::Data, "the processor picks ", *fps_,
           " frames a second (do_sample_frames), and nothing tells how many these are: write {\"fps\": NUMBER} to ", kVideoMetadata,
           " in the folder");
    const double most = std::floor(std::min(static_cast<double>(max_frames_), all) / step) * step;
    count = std::min({std::max(all / *fps * *fps_, static_cast<double>(min_frames_)), most, all});
    count = std::floor(count / step) * step;
  } else if (picks_) {
    fail(ErrorCode::Data,
         "the processor's do_sample_frames is true, and it has neither num_frames nor fps: set one, or do_sample_frames to false");
  }
  if (count > all || count < 1)
    fail(ErrorCode::Data, "the processor picks ", count, " frames (do_sample_frames), and there are ", frames,
         ": give more frames, or set its do_sample_frames to false");
  // The reference's own sum of float32 steps, which decides where a frame lies between two.
  const at::Tensor places = (picks_ ? at::arange(0, all, all / count, at::kFloat) : at::arange(frames)).to(at::kLong);
  return {places.const_data_ptr<int64_t>(), places.const_data_ptr<int64_t>() + places.numel()};
}

Size QwenVideo::target(Size frame, int64_t frames) const {
  const int64_t factor = patch_ * merge_;
  if (!steps_.resizes) {
    check_multiple(frame, factor);
    return frame;
  }
  int64_t most = max_pixels_;
  if (is_capped_) {
    const auto total = static_cast<int64_t>(static_cast<double>(max_video_tokens_ * factor * factor) * 0.9);
    most = std::max(std::min(most, total * temporal_patch_ / frames), static_cast<int64_t>(static_cast<double>(min_pixels_) * 1.05));
  }
  return smart_resize(frame, factor, min_pixels_, most);
}

QwenVideo::Shape QwenVideo::shape(const std::string& path) const {
  const VideoFolder folder = read_video_folder(path);
  return with_context(path, [&] {
    const auto all = static_cast<int64_t>(folder.frames.size());
    Shape shape;
    for (const int64_t place : pick(all, folder.fps)) shape.frames.push_back(folder.frames[static_cast<size_t>(place)]);
    const auto count = static_cast<int64_t>(shape.frames.size());
    Size first;
    for (const std::string& file : shape.frames) {
      const ImageHeader header = read_image_header(file, limit_);
      const Size size{header.height, header.width};
      if (first == Size{}) first = size;
      if (size != first)
        fail(ErrorCode::Data, "frames differ in size: ", shape.frames[0], " has ", first.width, " x ", first.height, " pixels, ", file,
             " has ", size.width, " x ", size.height);
    }
    shape.size = target(first, count);
    shape.layers = (count + temporal_patch_ - 1) / temporal_patch_;
    const double fps = folder.fps ? static_cast<double>(count) / static_cast<double>(all) * *folder.fps : kUntoldFps;
    shape.seconds = static_cast<double>(temporal_patch_) / fps;
    return shape;
  });
}

at::Tensor QwenVideo::load(const Shape& shape) const {
  const int64_t patches = shape.size.height / patch_ * (shape.size.width / patch_);
  at::Tensor all = at::empty({shape.layers * patches, 3 * temporal_patch_ * patch_ * patch_}, at::kFloat);
  std::vector<at::Tensor> frames;
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    frames.clear();
    for (int64_t i = layer * temporal_patch_; i < (layer + 1) * temporal_patch_; ++i) {
      // The last frame stays until the layer is full.
      if (i >= static_cast<int64_t>(shape.frames.size())) {
        frames.push_back(frames.back());
        continue;
      }
      const std::string& file = shape.frames[static_cast<size_t>(i)];
      const at::Tensor rgb = read_image(file, limit_);
      if (!steps_.resizes && Size{rgb.size(1), rgb.size(2)} != shape.size) fail(ErrorCode::Data, file, ": it changed while it was read");
      frames.push_back(normalize(resize(rgb, shape.size, steps_.resample), steps_));
    }
    all.narrow(0, layer * patches, patches).copy_(patchify(at::stack(frames), patch_, merge_));
  }
  return all;
}

}  // namespace tenon::vlm
