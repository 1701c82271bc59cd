#include "train/optimizer.h"

#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <doctest/doctest.h>

#include <cmath>

using namespace tenon;
using namespace tenon::host;

namespace {

AdapterParameter leaf(std::string name, at::Tensor value) { return {std::move(name), value.set_requires_grad(true)}; }

// The update as its authors write it, in float64 (arXiv:1711.05101, algorithm 2).
struct Reference {
  at::Tensor value, first, second;
  explicit Reference(const at::Tensor& start)
      : value(start.detach().to(at::kDouble)), first(at::zeros_like(value)), second(at::zeros_like(value)) {}
  void step(const at::Tensor& grad, double rate, const TrainSection& train, double decay, int64_t t) {
    const at::Tensor g = grad.to(at::kDouble);
    first = first * train.adam_beta1 + g * (1 - train.adam_beta1);
    second = second * train.adam_beta2 + g * g * (1 - train.adam_beta2);
    const at::Tensor m = first / (1 - std::pow(train.adam_beta1, t)), v = second / (1 - std::pow(train.adam_beta2, t));
    value = value - rate * (m / (v.sqrt() + train.adam_epsilon) + decay * value);
  }
};

}  // namespace

TEST_CASE("AdamW follows its published update, decay only where it belongs") {
  at::manual_seed(1);
  TrainSection train;
  train.weight_decay = 0.1;
  train.adam_beta2 = 0.95;
  std::vector<AdapterParameter> leaves{leaf("a.weight", at::randn({5, 7})), leaf("model.norm.weight", at::randn({7})),
                                       leaf("b.bias", at::randn({1000}))};
  std::vector<Reference> references;
  for (const auto& parameter : leaves) references.emplace_back(parameter.tensor);
  AdamW optimizer(leaves, train);
  for (int64_t t = 1; t <= 20; ++t) {
    const double rate = 0.01 / static_cast<double>(t);
    for (size_t i = 0; i < leaves.size(); ++i) {
      leaves[i].tensor.mutable_grad() = at::randn(leaves[i].tensor.sizes());
      references[i].step(leaves[i].tensor.grad(), rate, train, i == 0 ? 0.1 : 0, t);
    }
    optimizer.step(rate);
  }
  // Twenty steps in float32, each off by a few units of 6e-8.
  for (size_t i = 0; i < leaves.size(); ++i)
    CHECK((leaves[i].tensor.detach().to(at::kDouble) - references[i].value).abs().max().item<double>() < 2e-5);
}

TEST_CASE("a parameter without a gradient stays as it is") {
  TrainSection train;
  train.weight_decay = 0.5;
  std::vector<AdapterParameter> leaves{leaf("a", at::ones({3})), leaf("b", at::ones({3}))};
  leaves[0].tensor.mutable_grad() = at::ones({3});
  AdamW(leaves, train).step(0.1);
  CHECK(leaves[0].tensor[0].item<float>() < 0.9F);
  CHECK(leaves[1].tensor[0].item<float>() == 1.F);
}

TEST_CASE("decay is left out for biases and norms by the rules of transformers") {
  for (const char* name : {"model.layers.0.self_attn.q_proj.weight", "lm_head.weight", "model.embed_tokens.weight", "x.lora_A.weight",
                           "model.normalizer.weight"}) {
    INFO(name);
    CHECK(is_decayed(name));
  }
  for (const char* name : {"model.layers.0.self_attn.q_proj.bias", "model.norm.weight", "model.layers.1.input_layernorm.weight",
                           "self_attn.q_norm.weight", "x.RMSNorm.weight"}) {
    INFO(name);
    CHECK_FALSE(is_decayed(name));
  }
}

TEST_CASE("clipping scales all gradients by one factor, and only down") {
  std::vector<AdapterParameter> leaves{leaf("a", at::zeros({4})), leaf("b", at::zeros({2, 2})), leaf("c", at::zeros({1}))};
  leaves[0].tensor.mutable_grad() = at::full({4}, 3.0);
  leaves[1].tensor.mutable_grad() = at::full({2, 2}, 4.0);
  const double norm = gradient_norm(leaves);
  CHECK(norm == doctest::Approx(10));
  clip_gradients(leaves, norm, 20);
  CHECK(gradient_norm(leaves) == doctest::Approx(10));
  clip_gradients(leaves, norm, 2);
  CHECK(leaves[0].tensor.grad()[0].item<float>() == doctest::Approx(3 * 2 / (10 + 1e-6)));
  CHECK(leaves[1].tensor.grad()[0][0].item<float>() == doctest::Approx(4 * 2 / (10 + 1e-6)));
  clear_gradients(leaves);
  CHECK(gradient_norm(leaves) == 0);
}
