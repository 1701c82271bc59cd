#pragma once
// Pictures for a Qwen2-VL: each keeps its shape, its area is kept within bounds, and it becomes as many tokens as it has squares of merged patches.
#include "image_steps.h"
#include "qwen_config.h"
#include "qwen_grid.h"
#include "tenon/media.h"

namespace tenon::vlm {

// The size nearest to a picture's whose sides are multiples of `factor` and whose area lies within the bounds. Error(Data) for a strip.
Size smart_resize(Size picture, int64_t factor, int64_t min_pixels, int64_t max_pixels);

// [3, height, width] float32 -> [patches, 3 * frames * patch * patch], in squares of merge * merge patches; the picture is repeated as `frames` frames.
at::Tensor patchify(const at::Tensor& rgb, int64_t patch, int64_t merge, int64_t frames);

class QwenProcessor final : public Processor {
 public:
  // Error(Data) for files that do not fit the tower.
  QwenProcessor(const QwenVlConfig& config, const ProcessorFiles& files);

  std::vector<std::string> kinds() const override { return {"image"}; }
  int64_t placeholder(const std::string&) const override { return image_token_; }
  std::vector<int64_t> tokens(const Medium& medium) const override;
  // pixel_values [patches of all, patch width] float32, image_grid_thw [pictures, 3] int64.
  std::map<std::string, at::Tensor> load(const std::vector<Medium>& media) const override;

 private:
  Size target(Size picture) const;

  int64_t image_token_, patch_, temporal_patch_, merge_, limit_;
  int64_t min_pixels_ = 0, max_pixels_ = 0;
  ImageSteps steps_;
};

}  // namespace tenon::vlm
