#include "train/evaluate.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/sum.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/interrupt.h"
#include "base/log.h"
#include "base/seconds.h"
#include "data/batches.h"
#include "data/report.h"
#include "train/context.h"

namespace tenon::host {

EvalResult evaluate(LoadedModel& model, Objective* objective, const Dataset& set, int64_t batch_size) {
  at::NoGradGuard no_grad;
  const auto start = Clock::now();
  const RecomputeList none;
  std::vector<int64_t> rows(set.rows.size());
  std::iota(rows.begin(), rows.end(), 0);
  std::stable_sort(rows.begin(), rows.end(),
                   [&](int64_t a, int64_t b) { return set.rows[static_cast<size_t>(a)].length > set.rows[static_cast<size_t>(b)].length; });
  double loss_sum = 0, weight = 0;
  const auto step = static_cast<size_t>(std::max<int64_t>(1, batch_size));
  Progress progress("evaluating", static_cast<int64_t>(rows.size()), false);
  for (size_t first = 0; first < rows.size(); first += step) {
    throw_if_interrupted();
    const std::span<const int64_t> part(rows.data() + first, std::min(step, rows.size() - first));
    const TrainBatch batch = make_batch(set, part);
    if (objective) {
      StepContext context(model, none);
      const ObjectiveResult result = objective->step(context, batch);
      loss_sum += result.loss_sum.item<double>();
      weight += result.weight;
    } else {
      Tape tape(*model.model, none);
      const at::Tensor logprobs = label_logprobs(model, tape, batch).logprobs;
      loss_sum -= at::sum(logprobs, at::kDouble).item<double>();
      weight += static_cast<double>(logprobs.numel());
    }
    progress.add(static_cast<int64_t>(part.size()));
  }
  progress.finish();
  EvalResult result;
  result.loss = weight > 0 ? loss_sum / weight : 0;
  result.perplexity = std::exp(result.loss);
  result.tokens = static_cast<int64_t>(weight);
  result.seconds = seconds_since(start);
  return result;
}

EvalResult evaluate_recipe(LoadedModel& model, const Recipe& recipe) {
  if (!recipe.data || recipe.data->eval.empty()) fail(ErrorCode::Recipe, "there is nothing to evaluate: name files in data.eval");
  DatasetRequest request;
  request.data = &*recipe.data;
  request.is_eval = true;
  request.text = model.text.get();
  request.end_ids = model.eos_ids();
  request.vocab_size = model.model->blueprint().vocab_size;
  request.media = model.media;
  request.media_folder = recipe.media.folder;
  request.seed = recipe.train ? recipe.train->seed : 0;
  const Dataset set = build_dataset(request);
  for (const auto& warning : set.warnings) log_warn(warning);
  log_info("eval data: " + summary_line(set));
  model.set_training(false);
  int64_t batch_size = 1;
  if (recipe.train)
    batch_size =
        recipe.train->per_device_eval_batch_size > 0 ? recipe.train->per_device_eval_batch_size : recipe.train->per_device_train_batch_size;
  return evaluate(model, nullptr, set, batch_size);
}

}  // namespace tenon::host
