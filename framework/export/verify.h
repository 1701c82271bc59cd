#pragma once
// Replays prompts before and after an export: does the written folder say what the model in memory said?
#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

namespace tenon::host {

using TokenIds = std::vector<int64_t>;

// The calls that a model needs to be replayed.
struct ReplayModel {
  std::function<TokenIds(const TokenIds& prompt, int64_t count)> greedy;  // the ids that follow; fewer after an end of text
  std::function<at::Tensor(const TokenIds& ids)> logits;                  // [ids, vocab] float32
};

// What the first model did; the second one may be loaded when the first is gone.
struct Replay {
  struct Case {
    TokenIds prompt, answer;
    at::Tensor logits;  // [answer, vocab]: those that chose each token of the answer
  };
  std::vector<Case> cases;
};

struct ReplayComparison {
  double max_difference = 0;  // max |a - b| / max |b| over all steps
  int64_t steps = 0, different_tokens = 0;
  int64_t near_ties = 0;  // other token, but the two best logits lie within the tolerance: not counted as different
  double tolerance = 0;
  bool same() const { return steps > 0 && different_tokens == 0 && max_difference <= tolerance; }
  std::string to_text() const;  // one line
};

Replay record_replay(const ReplayModel& model, const std::vector<TokenIds>& prompts, int64_t new_tokens);
// Feeds the recorded prompts and answers to the second model and compares the logits of every step and the token they choose.
ReplayComparison compare_replay(const Replay& recorded, const std::function<at::Tensor(const TokenIds&)>& logits, double tolerance);

// How far logits may move when weights are rounded to a dtype that they were not in before: float32 1e-4 (the contract), float16 1e-2 and bfloat16 5e-2,
// some ten times one rounding of a weight (2^-11, 2^-8).
double replay_tolerance(at::ScalarType dtype);

}  // namespace tenon::host
