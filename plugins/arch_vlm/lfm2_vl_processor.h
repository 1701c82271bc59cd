#pragma once
// Pictures for an LFM2-VL: each keeps its shape within bounds; a large one becomes tiles and a small view of the whole. Marks stand around and between them.
#include "image_steps.h"
#include "lfm2_vl_config.h"
#include "lfm2_vl_views.h"
#include "tenon/media.h"
#include "token_names.h"

namespace tenon::vlm {

class Lfm2VlProcessor final : public Processor {
 public:
  // Error(Data) for files that do not fit the tower or say what is not served.
  Lfm2VlProcessor(const Lfm2VlConfig& config, const ProcessorFiles& files);

  std::vector<std::string> kinds() const override { return {"image"}; }
  int64_t placeholder(const std::string&) const override { return image_token_; }
  std::vector<int64_t> tokens(const Medium& medium) const override;
  // pixel_values [views, most patches, patch width] float32, pixel_attention_mask [views, most patches] int32, spatial_shapes [views, 2] int64.
  std::map<std::string, at::Tensor> load(const std::vector<Medium>& media) const override;

 private:
  std::vector<at::Tensor> cut(const at::Tensor& rgb, const Views& views) const;

  int64_t image_token_, limit_;
  ViewRules rules_;
  ImageSteps steps_;
  TokenNames names_;
  std::string start_, end_, thumbnail_;  // texts of the marks
};

}  // namespace tenon::vlm
