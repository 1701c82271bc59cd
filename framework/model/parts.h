#pragma once
// The slots and dense tensors of one model: made from a blueprint, empty until the fill.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tenon/architecture.h"

namespace tenon::host {

class ModelParts final : public Parts {
 public:
  struct Devices {
    std::vector<std::vector<at::Device>> blocks;  // by stack and block
    at::Device before = at::kCPU, after = at::kCPU;
  };
  ModelParts(Blueprint blueprint, Precision precision, Devices devices);

  const Blueprint& blueprint() const override { return blueprint_; }
  Slot& slot(const std::string& path) override;
  Dense& dense(const std::string& path) override;
  Precision precision() const override { return precision_; }
  at::Device device(int stack, int64_t block) const override;

  const std::vector<std::unique_ptr<Slot>>& slots() const { return slots_; }
  const std::vector<std::unique_ptr<Dense>>& denses() const { return denses_; }

 private:
  Blueprint blueprint_;
  Precision precision_;
  Devices devices_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<std::unique_ptr<Dense>> denses_;
  std::map<std::string, size_t> slot_index_, dense_index_;
};

}  // namespace tenon::host
