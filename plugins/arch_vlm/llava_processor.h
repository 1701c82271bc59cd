#pragma once
// Pictures for a llava: each becomes one square of the tower's size, and as many image tokens as the tower gives positions.
#include "image_steps.h"
#include "llava_config.h"
#include "tenon/media.h"

namespace tenon::vlm {

class LlavaProcessor final : public Processor {
 public:
  // Error(Data) for files that do not fit the tower.
  LlavaProcessor(const LlavaConfig& config, const ProcessorFiles& files);

  std::vector<std::string> kinds() const override { return {"image"}; }
  int64_t placeholder(const std::string&) const override { return image_token_; }
  std::vector<int64_t> tokens(const Medium& medium) const override;
  // pixel_values [pictures, 3, image_size, image_size] float32.
  std::map<std::string, at::Tensor> load(const std::vector<Medium>& media) const override;

 private:
  int64_t image_token_, tokens_, image_size_, limit_;
  ImageSteps steps_;
};

}  // namespace tenon::vlm
