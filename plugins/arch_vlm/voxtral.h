#pragma once
// Voxtral: a Whisper encoder, a projector of two layers, and any text model that is here.
#include "tenon/architecture.h"

namespace tenon::vlm {

class VoxtralArchitecture final : public Architecture {
 public:
  void use(Backbones& backbones) override { backbones_ = &backbones; }
  Blueprint blueprint(const Value& config) const override;
  std::unique_ptr<Model> build(const Value& config, Parts& parts) const override;
  std::unique_ptr<Processor> processor(const Value& config, const ProcessorFiles& files) const override;

 private:
  std::unique_ptr<Architecture> text_architecture(const std::string& type) const;

  Backbones* backbones_ = nullptr;
};

}  // namespace tenon::vlm
