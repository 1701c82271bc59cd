#include "chunked_loss.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <doctest/doctest.h>
#include <torch/csrc/autograd/autograd.h>

#include "tenon/nn/loss.h"

using namespace tenon;

namespace {

struct Head final : Filler {
  at::Tensor weight;
  double dropout = 0;
  int64_t largest = 0;  // rows asked for at once
  std::string describe() const override { return "head"; }
  at::Tensor linear(const at::Tensor& x) override {
    largest = std::max(largest, x.size(0));
    return at::linear(at::dropout(x, dropout, dropout > 0), weight);
  }
  at::Tensor dense_rows(at::ScalarType, int64_t, int64_t) const override { return weight; }
};

struct Result {
  at::Tensor logprobs, d_hidden, d_weight;
  int64_t largest;
};

Result run(int64_t chunk, bool trains_head, double dropout, double softcap) {
  at::manual_seed(5);
  auto head = std::make_shared<Head>();
  head->weight = at::randn({31, 12}).requires_grad_(trains_head);
  head->dropout = dropout;
  Slot slot(SlotSpec{.path = "lm_head", .out = 31, .in = 12});
  slot.fill(head);
  const at::Tensor hidden = at::randn({23, 12}).requires_grad_(true), weight = at::randn({23});
  const LossArgs args{.hidden = hidden, .targets = at::randint(31, {23}, at::kLong), .head = &slot, .logit_softcap = softcap};
  const chunked_loss::LossFn whole = nn::token_logprobs;
  const at::Tensor logprobs = chunk > 0 ? chunked_loss::in_chunks(args, whole, chunk) : whole(args);
  const at::Tensor after = at::randn({4});  // the generator stands where it stood
  torch::autograd::backward({(logprobs * weight).sum()});
  CHECK(!at::equal(after, at::randn({4})));
  return {logprobs.detach(), hidden.grad(), trains_head ? head->weight.grad() : at::Tensor(), head->largest};
}

}  // namespace

TEST_CASE("chunks give the values and gradients of the whole") {
  for (const bool trains_head : {false, true})
    for (const double softcap : {0.0, 3.0}) {
      const Result whole = run(0, trains_head, 0, softcap);
      for (const int64_t chunk : {1, 4, 22, 23, 100}) {
        CAPTURE(chunk);
        const Result parts = run(chunk, trains_head, 0, softcap);
        CHECK(parts.largest == std::min<int64_t>(chunk, 23));
        // Rows are computed alone; only the head's gradient adds up in another order.
        CHECK((parts.logprobs - whole.logprobs).abs().max().item<double>() <= 1e-5);
        CHECK((parts.d_hidden - whole.d_hidden).abs().max().item<double>() <= 1e-5);
        if (trains_head) CHECK((parts.d_weight - whole.d_weight).abs().max().item<double>() <= 1e-4);
      }
    }
}

TEST_CASE("dropout in the head is the same in both passes") {
  // d(sum)/d(hidden) through a dropped element is zero, and the logprobs tell which were: a second draw would disagree with finite differences.
  const Result parts = run(4, true, 0.5, 0), again = run(4, true, 0.5, 0);
  CHECK(at::equal(parts.d_hidden, again.d_hidden));
  at::manual_seed(5);
  const at::Tensor weight = at::randn({31, 12}), hidden = at::randn({23, 12}), factors = at::randn({23});
  const at::Tensor targets = at::randint(31, {23}, at::kLong);
  auto loss = [&](const at::Tensor& h) {
    at::NoGradGuard no_grad;
    auto head = std::make_shared<Head>();
    head->weight = weight, head->dropout = 0.5;
    Slot slot(SlotSpec{.path = "lm_head", .out = 31, .in = 12});
    slot.fill(head);
    at::manual_seed(11);
    return (chunked_loss::in_chunks({.hidden = h, .targets = targets, .head = &slot}, nn::token_logprobs, 4) * factors)
        .sum()
        .item<double>();
  };
  auto head = std::make_shared<Head>();
  head->weight = weight, head->dropout = 0.5;
  Slot slot(SlotSpec{.path = "lm_head", .out = 31, .in = 12});
  slot.fill(head);
  const at::Tensor leaf = hidden.clone().requires_grad_(true);
  at::manual_seed(11);
  torch::autograd::backward(
      {(chunked_loss::in_chunks({.hidden = leaf, .targets = targets, .head = &slot}, nn::token_logprobs, 4) * factors).sum()});
  for (const int64_t row : {0, 9, 22}) {
    at::Tensor up = hidden.clone(), down = hidden.clone();
    up[row][3] += 1e-2, down[row][3] -= 1e-2;
    // Central differences of float32 sums: 1e-6 * 23 / 2e-2.
    CHECK(leaf.grad()[row][3].item<double>() == doctest::Approx((loss(up) - loss(down)) / 2e-2).epsilon(0.02).scale(0.1));
  }
}

TEST_CASE("without gradients, chunks too; the plan hears of them") {
  Blueprint blueprint;
  chunked_loss::ChunkedLoss patch({.chunk_size = 7});
  CHECK(patch.on_blueprint(blueprint));
  CHECK(blueprint.loss_chunk_tokens == 7);
  Seams seams;
  CHECK(!patch.on_seams(seams));
  seams.loss.set_default("logprobs", nn::token_logprobs);
  CHECK(patch.on_seams(seams));
  CHECK((seams.loss.chain() == std::vector<std::string>{"logprobs", "chunked_loss"}));
}
