#pragma once
// A model in memory for tests: the slots and tensors of a blueprint with random values, without checkpoint, plan or recipe.
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tenon/architecture.h"
#include "tenon/filler.h"
#include "tenon/nn/experts.h"

namespace tenon::testing {

// A dense weight; trainable leaves where asked for.
class PlainFiller final : public Filler {
 public:
  PlainFiller(at::Tensor weight, at::Tensor bias) : weight_(std::move(weight)), bias_(std::move(bias)) {}
  std::string describe() const override { return "plain"; }
  at::Tensor linear(const at::Tensor& x) override {
    const at::Tensor weight = weight_.to(x.scalar_type());
    return bias_.defined() ? at::linear(x, weight, bias_.to(x.scalar_type())) : at::linear(x, weight);
  }
  at::Tensor grouped(const at::Tensor& x, const at::Tensor& offsets) override {
    return nn::grouped_linear(x, offsets, weight_.to(x.scalar_type()));
  }
  at::Tensor rows(const at::Tensor& ids, at::ScalarType dtype) override { return at::embedding(weight_, ids).to(dtype); }
  at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const override {
    return weight_.detach().narrow(0, first, last - first).to(dtype);
  }
  at::Tensor bias() const override { return bias_; }
  const at::Tensor& weight() const { return weight_; }

 private:
  at::Tensor weight_, bias_;
};

// Draws from LibTorch's default generator: seed it with at::manual_seed.
class TinyParts final : public Parts {
 public:
  explicit TinyParts(Blueprint blueprint, Precision precision = {}, bool trainable = false)
      : blueprint_(std::move(blueprint)), precision_(precision) {
    std::map<std::string, std::shared_ptr<Filler>> fillers;
    for (const SlotSpec& spec : blueprint_.slots) {
      auto slot = std::make_unique<Slot>(spec);
      if (spec.tied_to.empty()) {
        at::Tensor bias;
        if (spec.bias) bias = leaf(spec.path + ".bias", at::randn({spec.out}).mul_(0.1), trainable);
        std::vector<int64_t> shape{spec.out, spec.in};
        if (spec.kind == SlotKind::Experts) shape.insert(shape.begin(), spec.count);
        fillers[spec.path] = std::make_shared<PlainFiller>(leaf(spec.path + ".weight", at::randn(shape).mul_(kStd), trainable), bias);
      }
      slot->fill(fillers.at(spec.tied_to.empty() ? spec.path : spec.tied_to));
      slots_[spec.path] = std::move(slot);
    }
    for (const DenseSpec& spec : blueprint_.tensors)
      denses_[spec.path] = std::make_unique<Dense>(Dense{spec, leaf(spec.path, at::randn(spec.shape).mul_(0.2).add_(1), trainable)});
  }

  const Blueprint& blueprint() const override { return blueprint_; }
  Slot& slot(const std::string& path) override { return *slots_.at(path); }
  Dense& dense(const std::string& path) override { return *denses_.at(path); }
  Precision precision() const override { return precision_; }
  at::Device device(int, int64_t) const override { return at::kCPU; }

  // Every weight, bias and norm by its name in a checkpoint.
  const std::vector<std::pair<std::string, at::Tensor>>& parameters() const { return parameters_; }

 private:
  static constexpr double kStd = 0.15;  // attention far from uniform at widths of tens
  at::Tensor leaf(const std::string& name, at::Tensor value, bool trainable) {
    value = value.to(trainable ? at::kFloat : precision_.compute);
    value.requires_grad_(trainable);
    parameters_.emplace_back(name, value);
    return value;
  }
  Blueprint blueprint_;
  Precision precision_;
  std::map<std::string, std::unique_ptr<Slot>> slots_;
  std::map<std::string, std::unique_ptr<Dense>> denses_;
  std::vector<std::pair<std::string, at::Tensor>> parameters_;
};

// An architecture's model with its parts.
struct TinyModel {
  TinyModel(const Architecture& architecture, const Value& config, Precision precision = {}, bool trainable = false)
      : parts(std::make_unique<TinyParts>(architecture.blueprint(config), precision, trainable)),
        model(architecture.build(config, *parts)) {}

  // All blocks -> [B, T, hidden].
  at::Tensor hidden(const Batch& batch, Cache* cache = nullptr) {
    State state = model->begin(batch, cache);
    const auto& stacks = model->blueprint().stacks;
    for (size_t s = 0; s < stacks.size(); ++s)
      for (int64_t i = 0; i < stacks[s].count; ++i) model->run_block(static_cast<int>(s), i, state);
    return model->finish(state);
  }
  at::Tensor logits(const Batch& batch, Cache* cache = nullptr) {
    const c10::NoGradGuard no_grad;
    return model->logits(hidden(batch, cache));
  }

  std::unique_ptr<TinyParts> parts;
  std::unique_ptr<Model> model;
};

}  // namespace tenon::testing
