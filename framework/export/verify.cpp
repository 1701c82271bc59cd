#include "export/verify.h"

#include <algorithm>
#include <cmath>

#include "base/interrupt.h"
#include "tenon/error.h"

namespace tenon::host {

namespace {

// Logits that chose each token of the answer: those of the positions before it.
at::Tensor choosing_logits(const std::function<at::Tensor(const TokenIds&)>& logits, const TokenIds& prompt, const TokenIds& answer) {
  TokenIds ids = prompt;
  ids.insert(ids.end(), answer.begin(), answer.end());
  const at::Tensor all = logits(ids);
  if (all.dim() != 2 || all.size(0) != static_cast<int64_t>(ids.size()) || all.scalar_type() != at::kFloat)
    fail(ErrorCode::Internal, "logits of ", ids.size(), " tokens were expected as float32 [tokens, vocabulary]");
  return all.narrow(0, static_cast<int64_t>(prompt.size()) - 1, static_cast<int64_t>(answer.size())).cpu().contiguous();
}

}  // namespace

Replay record_replay(const ReplayModel& model, const std::vector<TokenIds>& prompts, int64_t new_tokens) {
  Replay replay;
  for (const auto& prompt : prompts) {
    throw_if_interrupted();
    if (prompt.empty()) fail(ErrorCode::Data, "a prompt to verify with has no tokens");
    Replay::Case one{prompt, model.greedy(prompt, new_tokens), {}};
    if (one.answer.empty()) continue;
    one.logits = choosing_logits(model.logits, one.prompt, one.answer).clone();
    replay.cases.push_back(std::move(one));
  }
  return replay;
}

ReplayComparison compare_replay(const Replay& recorded, const std::function<at::Tensor(const TokenIds&)>& logits, double tolerance) {
  ReplayComparison result;
  result.tolerance = tolerance;
  double worst = 0, largest = 0;
  bool has_nan = false;
  for (const auto& one : recorded.cases) {
    throw_if_interrupted();
    const at::Tensor after = choosing_logits(logits, one.prompt, one.answer);
    const int64_t steps = after.size(0), vocab = after.size(1);
    if (one.logits.size(1) != vocab)
      fail(ErrorCode::Data, "the written model has a vocabulary of ", vocab, ", the model in memory one of ", one.logits.size(1));
    for (int64_t step = 0; step < steps; ++step) {
      const float* before = one.logits.const_data_ptr<float>() + step * vocab;
      const float* now = after.const_data_ptr<float>() + step * vocab;
      double step_largest = 0;
      for (int64_t i = 0; i < vocab; ++i) {
        const double difference = std::abs(static_cast<double>(before[i]) - now[i]);
        if (std::isnan(difference))
          has_nan = true;
        else
          worst = std::max(worst, difference), step_largest = std::max(step_largest, std::abs(static_cast<double>(before[i])));
      }
      largest = std::max(largest, step_largest);
      ++result.steps;
      // The best token of the same pass before: what was said step by step may differ where products look at all rows of a call.
      const int64_t chosen = std::max_element(before, before + vocab) - before;
      const int64_t now_best = std::max_element(now, now + vocab) - now;
      if (now_best == chosen) continue;
      const bool is_tie = std::abs(static_cast<double>(before[chosen]) - before[now_best]) <= tolerance * step_largest;
      ++(is_tie ? result.near_ties : result.different_tokens);
    }
  }
  result.max_difference = has_nan ? INFINITY : largest > 0 ? worst / largest : worst > 0 ? INFINITY : 0;
  return result;
}

std::string ReplayComparison::to_text() const {
  return concat(same() ? "verified" : "NOT verified", ": ", steps - different_tokens - near_ties, " of ", steps, " greedy tokens equal",
                near_ties ? concat(" (and ", near_ties, " near ties)") : "", ", largest logit difference ", max_difference, " (tolerance ",
                tolerance, ")");
}

double replay_tolerance(at::ScalarType dtype) {
  if (dtype == at::kFloat || dtype == at::kDouble) return 1e-4;
  return dtype == at::kHalf ? 1e-2 : 5e-2;
}

}  // namespace tenon::host
