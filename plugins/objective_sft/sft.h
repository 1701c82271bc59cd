#pragma once
// Supervised fine-tuning: the negative log-likelihood of the trained tokens.
#include "tenon/objective.h"

namespace tenon::sft {

struct SftOptions {};

class Sft final : public Objective {
 public:
  explicit Sft(const SftOptions&) {}
  // loss_sum is the sum of -log p over the batch's trained tokens, weight their number: the step's loss is a mean over tokens, however the
  // step is cut into batches.
  ObjectiveResult step(ObjectiveContext& context, const TrainBatch& batch) override;
};

}  // namespace tenon::sft
