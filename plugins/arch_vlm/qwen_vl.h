#pragma once
// Qwen2-VL and Qwen2.5-VL: a tower for pictures of any size before a qwen2.
#include "qwen_config.h"
#include "tenon/architecture.h"

namespace tenon::vlm {

class QwenVlArchitecture final : public Architecture {
 public:
  explicit QwenVlArchitecture(const QwenFamily& family) : family_(family) {}
  void use(Backbones& backbones) override { backbones_ = &backbones; }
  Blueprint blueprint(const Value& config) const override;
  std::unique_ptr<Model> build(const Value& config, Parts& parts) const override;
  std::unique_ptr<Processor> processor(const Value& config, const ProcessorFiles& files) const override;

 private:
  std::unique_ptr<Architecture> text_architecture() const;

  const QwenFamily& family_;
  Backbones* backbones_ = nullptr;
};

}  // namespace tenon::vlm
