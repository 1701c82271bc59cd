#pragma once
// What an objective asks the host for: log-probabilities of a batch, with gradients and, as reference, without adapters.
#include <deque>

#include "model/loaded_model.h"
#include "tenon/objective.h"
#include "train/tape.h"

namespace tenon::host {

// One use: objective.step(context, batch), backward of its loss and of what the model adds to it, then context.backward().
class StepContext final : public ObjectiveContext {
 public:
  StepContext(LoadedModel& model, const RecomputeList& recompute) : model_(model), recompute_(recompute) {}

  TokenLogprobs token_logprobs(const TrainBatch& batch) override;
  TokenLogprobs reference_logprobs(const TrainBatch& batch) override;
  // The sum over the passes with gradients; undefined: none.
  at::Tensor auxiliary_loss() const;
  void backward();

 private:
  LoadedModel& model_;
  const RecomputeList& recompute_;
  std::deque<Tape> tapes_;  // of passes with gradients
};

// Log-probabilities of the labels of a batch, through `tape`. Only positions that predict a label go through the output head.
TokenLogprobs label_logprobs(LoadedModel& model, Tape& tape, const TrainBatch& batch);

}  // namespace tenon::host
