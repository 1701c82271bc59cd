#include "train/tape.h"

#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <doctest/doctest.h>
#include <torch/csrc/autograd/autograd.h>

#include "support/fake_model.h"

using namespace tenon;
using namespace tenon::host;
using tenon::testing::FakeModel;

namespace {

constexpr int64_t kVocab = 11, kWidth = 6, kBlocks = 4;

Batch some_batch() {
  at::manual_seed(5);
  Batch batch;
  batch.ids = at::randint(kVocab, {2, 7}, at::kLong);
  return batch;
}

struct Result {
  double loss = 0;
  std::vector<at::Tensor> grads;
};

Result collect(FakeModel& model, double loss) {
  Result result{loss, {}};
  for (auto& leaf : model.leaves()) {
    result.grads.push_back(leaf.tensor.grad().defined() ? leaf.tensor.grad().clone() : at::Tensor());
    leaf.tensor.mutable_grad() = at::Tensor();
  }
  return result;
}

at::Tensor loss_of(FakeModel& model, const at::Tensor& hidden) { return at::log_softmax(model.logits(hidden), -1).select(-1, 3).sum(); }

// One graph through everything: what the tape must equal.
Result whole_graph(FakeModel& model, const Batch& batch, int64_t seed) {
  at::manual_seed(static_cast<uint64_t>(seed));
  State state = model.begin(batch, nullptr);
  for (int64_t i = 0; i < kBlocks; ++i) model.run_block(0, i, state);
  const at::Tensor loss = loss_of(model, model.finish(state));
  torch::autograd::backward({loss});
  return collect(model, loss.item<double>());
}

Result through_tape(FakeModel& model, const Batch& batch, int64_t seed, const std::vector<int64_t>& recompute) {
  at::manual_seed(static_cast<uint64_t>(seed));
  const RecomputeList list(recompute);
  Tape tape(model, list);
  const at::Tensor loss = loss_of(model, tape.forward(batch));
  torch::autograd::backward({loss});
  tape.backward();
  return collect(model, loss.item<double>());
}

// The same operations on the same numbers: equal up to the order in which autograd adds gradients.
void check_equal(const Result& a, const Result& b) {
  CHECK(a.loss == doctest::Approx(b.loss).epsilon(1e-6));
  REQUIRE(a.grads.size() == b.grads.size());
  for (size_t i = 0; i < a.grads.size(); ++i) {
    REQUIRE(a.grads[i].defined() == b.grads[i].defined());
    if (a.grads[i].defined()) CHECK(at::allclose(a.grads[i], b.grads[i], 1e-5, 1e-5));
  }
}

}  // namespace

TEST_CASE("gradients equal those of one graph, whichever blocks are recomputed") {
  for (bool train_embedding : {false, true})
    for (const std::vector<int64_t>& recompute : {std::vector<int64_t>{}, {0}, {3}, {1, 2}, {0, 1, 2, 3}}) {
      at::manual_seed(1);
      FakeModel model(kVocab, kWidth, kBlocks, train_embedding);
      const Batch batch = some_batch();
      check_equal(through_tape(model, batch, 9, recompute), whole_graph(model, batch, 9));
    }
}

TEST_CASE("recomputed blocks drop what they dropped before, and leave the generator where it was") {
  at::manual_seed(2);
  FakeModel model(kVocab, kWidth, kBlocks, false);
  model.dropout = 0.4;
  const Batch batch = some_batch();
  const Result expected = whole_graph(model, batch, 9);
  const at::Tensor next = at::rand({1});
  for (const std::vector<int64_t>& recompute : {std::vector<int64_t>{}, {1}, {0, 1, 2, 3}}) {
    check_equal(through_tape(model, batch, 9, recompute), expected);
    CHECK(at::rand({1}).item<float>() == next.item<float>());
  }
  CHECK(whole_graph(model, batch, 10).loss != doctest::Approx(expected.loss));
}

TEST_CASE("extras carry gradients from the block that made them to those that read them") {
  at::manual_seed(3);
  FakeModel model(kVocab, kWidth, kBlocks, true);
  model.with_extra = true;
  const Batch batch = some_batch();
  const Result expected = whole_graph(model, batch, 9);
  check_equal(through_tape(model, batch, 9, {}), expected);
  check_equal(through_tape(model, batch, 9, {2, 3}), expected);
  check_equal(through_tape(model, batch, 9, {0, 1, 2, 3}), expected);
}

TEST_CASE("the first block of a frozen embedding computes no gradient of its input") {
  at::manual_seed(4);
  FakeModel model(kVocab, kWidth, kBlocks, false);
  const Batch batch = some_batch();
  through_tape(model, batch, 9, {0, 1, 2, 3});
  CHECK((model.saw_gradients & 1) == 0);
  CHECK((model.saw_gradients & 2) != 0);
}

TEST_CASE("only recomputed blocks run twice, and nothing runs backward without gradients") {
  at::manual_seed(6);
  FakeModel model(kVocab, kWidth, kBlocks, false);
  const Batch batch = some_batch();
  through_tape(model, batch, 9, {1, 3});
  CHECK(model.runs == kBlocks + 2);
  at::NoGradGuard no_grad;
  const RecomputeList all({0, 1, 2, 3});
  Tape tape(model, all);
  CHECK_FALSE(tape.forward(batch).requires_grad());
  tape.backward();
  CHECK(model.runs == 2 * kBlocks + 2);
}

TEST_CASE("two passes can be open at once") {
  at::manual_seed(7);
  FakeModel model(kVocab, kWidth, kBlocks, false);
  const Batch first = some_batch();
  Batch second = first;
  second.ids = (first.ids + 1).remainder(kVocab);
  const Result a = whole_graph(model, first, 9), b = whole_graph(model, second, 9);
  const RecomputeList list({1});
  Tape one(model, list), two(model, list);
  const at::Tensor loss = loss_of(model, one.forward(first)) * 2 + loss_of(model, two.forward(second));
  torch::autograd::backward({loss});
  one.backward();
  two.backward();
  const Result both = collect(model, loss.item<double>());
  for (size_t i = 0; i < both.grads.size(); ++i) CHECK(at::allclose(both.grads[i], a.grads[i] * 2 + b.grads[i], 1e-5, 1e-5));
}
