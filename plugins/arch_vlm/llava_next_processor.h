#pragma once
// Pictures for a llava_next: a small view of the whole, and the tiles of the picture enlarged to the size that suits it best.
#include "image_steps.h"
#include "llava_config.h"
#include "tenon/media.h"

namespace tenon::vlm {

class LlavaNextProcessor final : public Processor {
 public:
  // Error(Data) for files that do not fit the tower.
  LlavaNextProcessor(const LlavaConfig& config, const ProcessorFiles& files);

  std::vector<std::string> kinds() const override { return {"image"}; }
  int64_t placeholder(const std::string&) const override { return image_token_; }
  std::vector<int64_t> tokens(const Medium& medium) const override;
  // pixel_values [pictures, most views, 3, image_size, image_size] float32, zeros where a picture has fewer; image_sizes [pictures, 2] int64.
  std::map<std::string, at::Tensor> load(const std::vector<Medium>& media) const override;

 private:
  at::Tensor views(const at::Tensor& rgb) const;

  int64_t image_token_, edge_, side_, limit_;
  std::vector<Size> pinpoints_;
  ImageSteps steps_;
};

}  // namespace tenon::vlm
