#include "sft.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <doctest/doctest.h>

using namespace tenon;

namespace {
struct GivenLogprobs : ObjectiveContext {
  explicit GivenLogprobs(at::Tensor values) : logprobs(std::move(values)) {}
  TokenLogprobs token_logprobs(const TrainBatch&) override { return {logprobs, {}}; }
  TokenLogprobs reference_logprobs(const TrainBatch&) override {
    FAIL("supervised training has no reference");
    return {};
  }
  at::Tensor logprobs;
};
}  // namespace

TEST_CASE("the loss is the sum of negative log-probabilities, the weight their number") {
  GivenLogprobs context(at::tensor({-0.5F, -1.25F, -2.F}));
  const ObjectiveResult result = sft::Sft({}).step(context, {});
  CHECK(result.loss_sum.item<float>() == doctest::Approx(3.75));
  CHECK(result.weight == 3);
}

TEST_CASE("a batch without trained tokens weighs nothing") {
  GivenLogprobs context(at::empty({0}));
  const ObjectiveResult result = sft::Sft({}).step(context, {});
  CHECK(result.loss_sum.item<float>() == 0);
  CHECK(result.weight == 0);
}
