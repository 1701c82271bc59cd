#pragma once
// Learning rates by step, and how many steps there are: the arithmetic of transformers' Trainer.
#include <cstdint>
#include <string>

#include "recipe/recipe.h"

namespace tenon::host {

struct StepPlan {
  int64_t batches_per_epoch = 0;  // micro-batches
  int64_t steps_per_epoch = 0;    // optimizer steps; the last one of an epoch may have fewer micro-batches
  int64_t total_steps = 0;
  int64_t epochs = 0;  // begun, the last one possibly not finished
  int64_t warmup_steps = 0;
};

// max_steps wins over num_train_epochs; warmup_steps over warmup_ratio (rounded up).
StepPlan plan_steps(const TrainSection& train, int64_t rows);

// The factor on the learning rate at optimizer step `step`, from 0. Error(Recipe) for an unknown name.
double schedule_factor(const std::string& name, int64_t step, int64_t warmup_steps, int64_t total_steps);

}  // namespace tenon::host
