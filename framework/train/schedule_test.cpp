#include "train/schedule.h"

#include <doctest/doctest.h>

#include <vector>

#include "tenon/error.h"

using namespace tenon::host;

TEST_CASE("schedules give the factors of transformers") {
  // optimization.py of transformers 5.23: 10 steps, 3 of them warm-up.
  const std::vector<double> linear{0, 1 / 3.0, 2 / 3.0, 1, 6 / 7.0, 5 / 7.0, 4 / 7.0, 3 / 7.0, 2 / 7.0, 1 / 7.0, 0};
  const std::vector<double> cosine{0,
                                   1 / 3.0,
                                   2 / 3.0,
                                   1,
                                   0.9504844339512095,
                                   0.8117449009293668,
                                   0.6112604669781572,
                                   0.3887395330218428,
                                   0.1882550990706332,
                                   0.04951556604879043,
                                   0};
  for (int64_t step = 0; step <= 10; ++step) {
    CHECK(schedule_factor("linear", step, 3, 10) == doctest::Approx(linear[static_cast<size_t>(step)]));
    CHECK(schedule_factor("cosine", step, 3, 10) == doctest::Approx(cosine[static_cast<size_t>(step)]).epsilon(1e-12));
    CHECK(schedule_factor("constant", step, 3, 10) == 1);
    CHECK(schedule_factor("constant_with_warmup", step, 3, 10) == doctest::Approx(step < 3 ? static_cast<double>(step) / 3 : 1));
  }
  CHECK(schedule_factor("linear", 0, 0, 10) == 1);
  CHECK_THROWS_WITH_AS(
      schedule_factor("cosin", 0, 0, 1),
      "unknown train.lr_scheduler_type 'cosin', did you mean 'cosine'?: there are linear, cosine, constant, constant_with_warmup",
      tenon::Error);
}

TEST_CASE("steps are counted as transformers counts them") {
  TrainSection train;
  train.per_device_train_batch_size = 4;
  train.gradient_accumulation_steps = 3;
  train.num_train_epochs = 2;
  train.warmup_ratio = 0.1;
  StepPlan plan = plan_steps(train, 30);  // 8 batches: steps of 3, 3 and 2
  CHECK(plan.batches_per_epoch == 8);
  CHECK(plan.steps_per_epoch == 3);
  CHECK(plan.total_steps == 6);
  CHECK(plan.epochs == 2);
  CHECK(plan.warmup_steps == 1);
  train.num_train_epochs = 1.5;
  CHECK(plan_steps(train, 30).total_steps == 5);
  train.max_steps = 7;
  train.warmup_steps = 4;
  plan = plan_steps(train, 30);
  CHECK(plan.total_steps == 7);
  CHECK(plan.epochs == 3);
  CHECK(plan.warmup_steps == 4);
  train.max_steps = -1;
  train.gradient_accumulation_steps = 100;
  CHECK(plan_steps(train, 30).steps_per_epoch == 1);
}
