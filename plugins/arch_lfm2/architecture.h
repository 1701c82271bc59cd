#pragma once
// lfm2: config in, blueprint and model out.
#include "tenon/architecture.h"

namespace tenon::lfm2 {

class Lfm2Architecture final : public Architecture {
 public:
  Blueprint blueprint(const Value& config) const override;
  std::unique_ptr<Model> build(const Value& config, Parts& parts) const override;
};

}  // namespace tenon::lfm2
