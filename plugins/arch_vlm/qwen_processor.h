#pragma once
// Pictures and videos for a Qwen2-VL: each keeps its shape, its area is kept within bounds, and it becomes as many tokens as it has squares of merged
// patches.
#include "image_steps.h"
#include "qwen_config.h"
#include "qwen_grid.h"
#include "qwen_video.h"
#include "tenon/media.h"

namespace tenon::vlm {

// The size nearest to a picture's whose sides are multiples of `factor` and whose area lies within the bounds. Error(Data) for a strip.
Size smart_resize(Size picture, int64_t factor, int64_t min_pixels, int64_t max_pixels);

// Error(Data) for a picture that cannot be cut into squares of `factor` pixels a side.
void check_multiple(Size picture, int64_t factor);

// [frames, 3, height, width] float32 -> [patches, 3 * frames * patch * patch], in squares of merge * merge patches.
at::Tensor patchify(const at::Tensor& frames, int64_t patch, int64_t merge);

// What processors of pictures and of videos have in common: the least and the largest area, and the shape of patches.
std::pair<int64_t, int64_t> read_areas(nn::ConfigReader& reader, int64_t least, int64_t largest);
void check_shape(nn::ConfigReader& reader, const QwenVisionConfig& tower);

class QwenProcessor final : public Processor {
 public:
  // Error(Data) for files that do not fit the tower.
  QwenProcessor(const QwenVlConfig& config, const ProcessorFiles& files, bool takes_videos = true);

  std::vector<std::string> kinds() const override {
    return takes_videos_ ? std::vector<std::string>{"image", "video"} : std::vector<std::string>{"image"};
  }
  int64_t placeholder(const std::string& kind) const override { return kind == "video" ? video_token_ : image_token_; }
  std::vector<int64_t> tokens(const Medium& medium) const override;
  // pixel_values [patches of all, patch width] float32 with image_grid_thw [pictures, 3] int64, pixel_values_videos with video_grid_thw, and for towers
  // that know times second_per_grid_ts [videos] float32.
  std::map<std::string, at::Tensor> load(const std::vector<Medium>& media) const override;

 private:
  Size target(Size picture) const;

  int64_t image_token_, video_token_, patch_, temporal_patch_, merge_, limit_;
  bool takes_videos_, knows_times_;
  int64_t min_pixels_ = 0, max_pixels_ = 0;
  ImageSteps steps_;
  QwenVideo video_;
};

}  // namespace tenon::vlm
