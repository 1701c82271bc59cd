#pragma once
// A tensor file in memory, for what quantizers and adapters read and write.
#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "tenon/error.h"
#include "tenon/quantizer.h"

namespace tenon::testing {

struct MemoryFile final : TensorSource {
  std::map<std::string, at::Tensor> tensors;

  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& [name, tensor] : tensors) all.push_back(name);
    return all;
  }
  bool has(const std::string& name) const override { return tensors.count(name) > 0; }
  TensorSpec spec(const std::string& name) const override { return {name, find(name).sizes().vec(), find(name).scalar_type()}; }
  at::Tensor read(const std::string& name) const override { return find(name).clone(); }

 private:
  const at::Tensor& find(const std::string& name) const {
    if (!has(name)) fail(ErrorCode::Data, "there is no tensor '", name, "'");
    return tensors.at(name);
  }
};

}  // namespace tenon::testing
