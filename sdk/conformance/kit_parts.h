#pragma once
// The host's side of a small model, for checks: slots filled with random dense weights, and the loop over blocks.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tenon/architecture.h"

namespace tenon::conformance {

// A dense weight, a leaf of autograd when trainable.
class KitFiller final : public Filler {
 public:
  KitFiller(at::Tensor weight, at::Tensor bias) : weight_(std::move(weight)), bias_(std::move(bias)) {}
  std::string describe() const override { return "dense"; }
  at::Tensor linear(const at::Tensor& x) override;
  at::Tensor grouped(const at::Tensor& x, const at::Tensor& offsets) override;
  at::Tensor rows(const at::Tensor& ids, at::ScalarType dtype) override;
  at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const override;
  at::Tensor bias() const override { return bias_; }
  const at::Tensor& weight() const { return weight_; }

 private:
  at::Tensor weight_, bias_;
};

class KitParts final : public Parts {
 public:
  explicit KitParts(Blueprint blueprint);
  const Blueprint& blueprint() const override { return blueprint_; }
  Slot& slot(const std::string& path) override;
  Dense& dense(const std::string& path) override;
  Precision precision() const override { return {at::kFloat, at::kFloat}; }
  at::Device device(int, int64_t) const override { return at::kCPU; }

  // Random float32 weights from the seed; tied slots share their filler.
  void fill(uint64_t seed, bool trainable);
  // Every leaf, by its name in a file.
  std::vector<std::pair<std::string, at::Tensor>> leaves() const;
  // The weight that was filled in, whatever wraps it now.
  const KitFiller& original(const std::string& path) const { return *fillers_.at(path); }

 private:
  Blueprint blueprint_;
  std::map<std::string, std::unique_ptr<Slot>> slots_;
  std::map<std::string, std::unique_ptr<Dense>> denses_;
  std::map<std::string, std::shared_ptr<KitFiller>> fillers_;
};

// begin, all blocks, finish.
at::Tensor run_hidden(Model& model, const Batch& batch, Cache* cache = nullptr);
at::Tensor run_logits(Model& model, const Batch& batch, Cache* cache = nullptr);

// Token ids [batch, time] below `vocab`, from the seed.
at::Tensor random_ids(int64_t batch, int64_t time, int64_t vocab, uint64_t seed);
// max|a - b| / max|b|.
double relative_max(const at::Tensor& a, const at::Tensor& b);

}  // namespace tenon::conformance
