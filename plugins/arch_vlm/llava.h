#pragma once
// LLaVA and LLaVA-NeXT: a vision tower, a projector of two layers, and any text model that is here.
#include "llava_config.h"
#include "tenon/architecture.h"

namespace tenon::vlm {

class LlavaArchitecture final : public Architecture {
 public:
  explicit LlavaArchitecture(const LlavaFamily& family = kLlava) : family_(family) {}
  void use(Backbones& backbones) override { backbones_ = &backbones; }
  Blueprint blueprint(const Value& config) const override;
  std::unique_ptr<Model> build(const Value& config, Parts& parts) const override;
  std::unique_ptr<Processor> processor(const Value& config, const ProcessorFiles& files) const override;

 private:
  std::unique_ptr<Architecture> text_architecture(const std::string& type) const;

  const LlavaFamily& family_;
  Backbones* backbones_ = nullptr;
};

}  // namespace tenon::vlm
