#pragma once
// The architecture of one family: config in, blueprint and model out.
#include "families.h"
#include "tenon/architecture.h"

namespace tenon::llama {

class DecoderArchitecture final : public Architecture {
 public:
  explicit DecoderArchitecture(const Family& family) : family_(family) {}
  Blueprint blueprint(const Value& config) const override;
  std::unique_ptr<Model> build(const Value& config, Parts& parts) const override;

 private:
  const Family& family_;
};

}  // namespace tenon::llama
