#pragma once
// A tensor file that lies in memory.
#include <string>
#include <utility>
#include <vector>

#include "tenon/error.h"
#include "tenon/quantizer.h"

namespace tenon::conformance {

class MemoryFile final : public TensorSource {
 public:
  explicit MemoryFile(std::vector<NamedTensor> tensors) : tensors_(std::move(tensors)) {}
  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& t : tensors_) all.push_back(t.name);
    return all;
  }
  bool has(const std::string& name) const override { return find(name) != nullptr; }
  TensorSpec spec(const std::string& name) const override {
    const at::Tensor& t = get(name);
    return {name, t.sizes().vec(), t.scalar_type()};
  }
  at::Tensor read(const std::string& name) const override { return get(name).clone(); }

 private:
  const at::Tensor* find(const std::string& name) const {
    for (const auto& t : tensors_)
      if (t.name == name) return &t.tensor;
    return nullptr;
  }
  const at::Tensor& get(const std::string& name) const {
    if (const at::Tensor* t = find(name)) return *t;
    fail(ErrorCode::Data, "tensor '", name, "' is missing");
  }
  std::vector<NamedTensor> tensors_;
};

}  // namespace tenon::conformance
