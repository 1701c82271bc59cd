#pragma once
// Pictures for an mllama: each is cut into tiles, and stands at one image token whatever its size.
#include "image_steps.h"
#include "mllama_config.h"
#include "tenon/media.h"

namespace tenon::vlm {

class MllamaProcessor final : public Processor {
 public:
  // Error(Data) for files that do not fit the tower.
  MllamaProcessor(const MllamaConfig& config, const ProcessorFiles& files);

  std::vector<std::string> kinds() const override { return {"image"}; }
  int64_t placeholder(const std::string&) const override { return image_token_; }
  std::vector<int64_t> tokens(const Medium& medium) const override;
  // pixel_values [pictures, max_tiles, 3, image_size, image_size] float32, zeros where a picture has fewer tiles; aspect_ratio_ids [pictures] and
  // aspect_ratio_mask [pictures, max_tiles], int64.
  std::map<std::string, at::Tensor> load(const std::vector<Medium>& media) const override;

 private:
  int64_t image_token_, edge_, max_tiles_, limit_;
  ImageSteps steps_;
};

}  // namespace tenon::vlm
