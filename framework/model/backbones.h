#pragma once
// Architectures by model_type, each with access to the others.
#include <memory>
#include <string>

#include "plugins/registry.h"
#include "tenon/architecture.h"

namespace tenon::host {

class RegistryBackbones final : public Backbones {
 public:
  explicit RegistryBackbones(Registry& registry) : registry_(registry) {}
  std::unique_ptr<Architecture> make(const std::string& model_type) override {
    std::unique_ptr<Architecture> architecture = registry_.architecture(model_type).make(Value::table());
    architecture->use(*this);
    return architecture;
  }

 private:
  Registry& registry_;
};

}  // namespace tenon::host
