#pragma once
// Mllama (Llama 3.2 Vision): a tower of tiles, and a llama some of whose layers look at pictures.
#include "tenon/architecture.h"

namespace tenon::vlm {

class MllamaArchitecture final : public Architecture {
 public:
  void use(Backbones& backbones) override { backbones_ = &backbones; }
  Blueprint blueprint(const Value& config) const override;
  std::unique_ptr<Model> build(const Value& config, Parts& parts) const override;
  std::unique_ptr<Processor> processor(const Value& config, const ProcessorFiles& files) const override;

 private:
  std::unique_ptr<Architecture> text_architecture() const;

  Backbones* backbones_ = nullptr;
};

}  // namespace tenon::vlm
