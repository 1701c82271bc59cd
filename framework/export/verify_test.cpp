#include "export/verify.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "checkpoint/test_files.h"

#include <doctest/doctest.h>

using namespace tenon;
using namespace tenon::host;
using namespace tenon::host::test;

namespace {

// After token t the next one is t + 1 modulo 5, with logit 10; `change` alters the logits of every position.
at::Tensor counting_logits(const TokenIds& ids, const std::function<void(float*)>& change) {
  at::Tensor logits = at::zeros({static_cast<int64_t>(ids.size()), 5});
  for (size_t i = 0; i < ids.size(); ++i) {
    float* row = logits.mutable_data_ptr<float>() + 5 * i;
    row[(ids[i] + 1) % 5] = 10;
    if (change) change(row);
  }
  return logits;
}

ReplayModel counting_model() {
  return {.greedy =
              [](const TokenIds& prompt, int64_t count) {
                TokenIds answer;
                for (int64_t i = 1; i <= count; ++i) answer.push_back((prompt.back() + i) % 5);
                return answer;
              },
          .logits = [](const TokenIds& ids) { return counting_logits(ids, nullptr); }};
}

ReplayComparison compare(const std::function<void(float*)>& change) {
  const Replay replay = record_replay(counting_model(), {{0, 1}, {3}}, 4);
  return compare_replay(
      replay, [&](const TokenIds& ids) { return counting_logits(ids, change); }, 1e-2);
}

}  // namespace

TEST_CASE("the same model replays equal, a changed one does not") {
  const ReplayComparison same = compare(nullptr);
  CHECK(same.same());
  CHECK(same.steps == 8);
  CHECK(same.max_difference == 0);
  CHECK(contains(same.to_text(), "verified: 8 of 8"));

  const ReplayComparison close = compare([](float* row) { row[0] += 0.05f; });
  CHECK(close.same());
  CHECK(close.max_difference == doctest::Approx(0.005));

  const ReplayComparison drifted = compare([](float* row) { row[0] += 1; });
  CHECK_FALSE(drifted.same());
  CHECK(drifted.different_tokens == 0);

  const ReplayComparison other = compare([](float* row) { row[2] += 20; });
  CHECK(other.different_tokens == 6);  // all but the two steps that say 2 anyway
  CHECK(contains(other.to_text(), "NOT verified"));

  CHECK_FALSE(compare([](float* row) { row[3] = NAN; }).same());
}

TEST_CASE("a step whose two best logits are as good as equal may go either way") {
  ReplayModel model = counting_model();
  model.logits = [](const TokenIds& ids) { return counting_logits(ids, [](float* row) { row[4] = std::max(row[4], 9.99f); }); };
  const Replay replay = record_replay(model, {{0}}, 3);
  const ReplayComparison result = compare_replay(
      replay, [](const TokenIds& ids) { return counting_logits(ids, [](float* row) { row[4] = 10.01f; }); }, 1e-2);
  CHECK(result.near_ties == 3);
  CHECK(result.same());
}

TEST_CASE("nothing compared is nothing verified, and another vocabulary is an error") {
  CHECK_FALSE(compare_replay({}, nullptr, 1).same());
  const Replay replay = record_replay(counting_model(), {{0}}, 1);
  CHECK(contains(error_of([&] {
                   compare_replay(
                       replay,
                       [](const TokenIds& ids) {
                         return at::zeros({static_cast<int64_t>(ids.size()), 6});
                       },
                       1);
                 }),
                 "vocabulary of 6"));
  CHECK(contains(error_of([&] { record_replay(counting_model(), {{}}, 1); }), "no tokens"));
}
