#pragma once
// A small model without architecture: tokens are embedded, every block adds tanh(drop(hidden) W), a head gives logits. A token sees itself alone.
#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "tenon/adapter.h"
#include "tenon/model.h"

namespace tenon::testing {

class FakeModel final : public Model {
 public:
  // Leaves by name: "embed", "block.<i>", "head".
  FakeModel(int64_t vocab, int64_t width, int64_t blocks, bool train_embedding) {
    blueprint_.vocab_size = vocab;
    blueprint_.hidden_size = width;
    blueprint_.stacks = {{"block", blocks}};
    embed = at::randn({vocab, width}).set_requires_grad(train_embedding);
    for (int64_t i = 0; i < blocks; ++i) weights.push_back((at::randn({width, width}) * 0.5).set_requires_grad(true));
    head = (at::randn({vocab, width}) * 0.3).set_requires_grad(true);
  }

  const Blueprint& blueprint() const override { return blueprint_; }
  Seams& seams() override { return seams_; }
  State begin(const Batch& batch, Cache*) override {
    State state;
    state.hidden = at::embedding(embed, batch.ids);
    return state;
  }
  void run_block(int, int64_t i, State& state) override {
    ++runs;
    saw_gradients |= state.hidden.requires_grad() ? 1 << i : 0;
    at::Tensor x = state.hidden;
    if (dropout > 0) x = x * at::bernoulli(at::full_like(x, 1 - dropout)) / (1 - dropout);
    if (with_extra && i == 0) state.extras["skip"] = at::matmul(x, weights[0]);
    state.hidden = state.hidden + at::tanh(at::matmul(x, weights[static_cast<size_t>(i)].t()));
    if (with_extra && i > 0) state.hidden = state.hidden + state.extras.at("skip") * 0.5;
  }
  at::Tensor finish(State& state) override { return state.hidden * 0.5; }
  at::Tensor logits(const at::Tensor& hidden) override { return at::matmul(hidden, head.t()); }
  at::Tensor token_logprobs(const at::Tensor& hidden, const at::Tensor& targets) override {
    return at::log_softmax(logits(hidden), -1).gather(1, targets.unsqueeze(1)).squeeze(1);
  }
  std::unique_ptr<Cache> make_cache(int64_t, int64_t) override { return nullptr; }

  std::vector<AdapterParameter> leaves() const {
    std::vector<AdapterParameter> all;
    if (embed.requires_grad()) all.push_back({"embed", embed});
    for (size_t i = 0; i < weights.size(); ++i) all.push_back({"block." + std::to_string(i), weights[i]});
    all.push_back({"head", head});
    return all;
  }

  at::Tensor embed, head;
  std::vector<at::Tensor> weights;
  double dropout = 0;
  bool with_extra = false;
  int64_t runs = 0;           // of blocks
  int64_t saw_gradients = 0;  // bit i: block i got a hidden state that requires gradients

 private:
  Blueprint blueprint_;
  Seams seams_;
};

// Hands a FakeModel's leaves to the host as an adapter's.
class FakeAdapter final : public Adapter {
 public:
  explicit FakeAdapter(FakeModel& model) : model_(model) {}
  std::vector<std::string> targets(const Blueprint&) const override { return {}; }
  std::vector<TensorSpec> parameters(const SlotSpec&) const override { return {}; }
  std::shared_ptr<Filler> wrap(const SlotSpec&, std::shared_ptr<Filler> base, at::Device, bool) override { return base; }
  std::vector<AdapterParameter> state() const override { return model_.leaves(); }
  void set_enabled(bool on) override { enabled = on; }
  void set_training(bool on) override { model_.dropout = on ? dropout : 0; }
  Value config(const std::string& base_model) const override {
    Value config;
    config.set("base_model_name_or_path", base_model);
    return config;
  }
  void configure(const Value&) override {}
  void load(const TensorSource&) override {}
  at::Tensor merge(const SlotSpec&, const at::Tensor& weight) const override { return weight; }

  double dropout = 0;
  bool enabled = true;

 private:
  FakeModel& model_;
};

}  // namespace tenon::testing
