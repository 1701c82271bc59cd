#pragma once
// Videos for a Qwen2-VL, as its video processor treats frames: some are picked, all get one size, and so many at a time become one layer of patches.
#include <optional>

#include "image_steps.h"
#include "qwen_config.h"
#include "tenon/media.h"
#include "video_folder.h"

namespace tenon::vlm {

class QwenVideo {
 public:
  // From the processor's own table in processor_config.json, else video_preprocessor_config.json, else the image processor's. Error(Data) for what
  // does not fit the tower.
  QwenVideo(const QwenVlConfig& config, const ProcessorFiles& files);

  // What a folder will become. Reads headers alone.
  struct Shape {
    int64_t layers = 0;  // of patches, in time
    Size size;           // of the frames, in pixels
    double seconds = 0;  // from one layer to the next
    std::vector<std::string> frames;
  };
  Shape shape(const std::string& path) const;
  // [patches, patch width] float32; one frame's pixels are held beside it at a time.
  at::Tensor load(const Shape& shape) const;

  // Places in [0, frames) of the frames that are picked. Error(Data) where the processor wants to pick and cannot.
  std::vector<int64_t> pick(int64_t frames, std::optional<double> fps) const;
  Size target(Size frame, int64_t frames) const;

 private:
  int64_t patch_, temporal_patch_, merge_, limit_;
  int64_t min_pixels_ = 0, max_pixels_ = 0;
  bool picks_ = false;
  std::optional<int64_t> num_frames_;
  std::optional<double> fps_;
  int64_t min_frames_ = 0, max_frames_ = 0;
  bool is_capped_ = false;  // the area of a frame, by its share of max_video_tokens_
  int64_t max_video_tokens_ = 0;
  ImageSteps steps_;
};

}  // namespace tenon::vlm
