#pragma once
// LFM2-VL: a SigLIP2 tower for pictures of any shape before an lfm2, or another text model.
#include "tenon/architecture.h"

namespace tenon::vlm {

class Lfm2VlArchitecture final : public Architecture {
 public:
  static constexpr const char* kModelType = "lfm2_vl";
  static constexpr const char* kSummary = "LFM2-VL: pictures of any shape, in tiles where they are large, before an LFM2.";

  void use(Backbones& backbones) override { backbones_ = &backbones; }
  Blueprint blueprint(const Value& config) const override;
  std::unique_ptr<Model> build(const Value& config, Parts& parts) const override;
  std::unique_ptr<Processor> processor(const Value& config, const ProcessorFiles& files) const override;

 private:
  std::unique_ptr<Architecture> text_architecture(const std::string& type) const;

  Backbones* backbones_ = nullptr;
};

}  // namespace tenon::vlm
