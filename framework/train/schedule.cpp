#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/text.h"
#include "tenon/error.h"

namespace tenon::host {

StepPlan plan_steps(const TrainSection& train, int64_t rows) {
  auto ceil_divide = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  StepPlan plan;
  plan.batches_per_epoch = ceil_divide(rows, train.per_device_train_batch_size);
  plan.steps_per_epoch = std::max<int64_t>(1, ceil_divide(plan.batches_per_epoch, train.gradient_accumulation_steps));
  if (train.max_steps > 0) {
    plan.total_steps = train.max_steps;
    plan.epochs = ceil_divide(train.max_steps, plan.steps_per_epoch);
  } else {
    plan.total_steps = static_cast<int64_t>(std::ceil(train.num_train_epochs * static_cast<double>(plan.steps_per_epoch)));
    plan.epochs = static_cast<int64_t>(std::ceil(train.num_train_epochs));
  }
  plan.warmup_steps = train.warmup_steps > 0 ? train.warmup_steps
                                             : static_cast<int64_t>(std::ceil(static_cast<double>(plan.total_steps) * train.warmup_ratio));
  return plan;
}

double schedule_factor(const std::string& name, int64_t step, int64_t warmup_steps, int64_t total_steps) {
  const auto now = static_cast<double>(step), warmup = static_cast<double>(warmup_steps), total = static_cast<double>(total_steps);
  const double rising = now / std::max(1.0, warmup);
  if (name == "constant") return 1;
  if (name == "constant_with_warmup") return step < warmup_steps ? rising : 1;
  const double span = std::max(1.0, total - warmup);
  if (name == "linear") return step < warmup_steps ? rising : std::max(0.0, (total - now) / span);
  if (name == "cosine") return step < warmup_steps ? rising : std::max(0.0, 0.5 * (1 + std::cos(std::numbers::pi * (now - warmup) / span)));
  const std::vector<std::string> names{"linear", "cosine", "constant", "constant_with_warmup"};
  fail(ErrorCode::Recipe, "unknown train.lr_scheduler_type '", name, "'", did_you_mean(name, names), ": there are ", join(names, ", "));
}

}  // namespace tenon::host
