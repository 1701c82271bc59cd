#pragma once
// The training loop: epochs, optimizer steps, evaluation, logs, checkpoints, a clean stop.
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/dataset.h"
#include "model/loaded_model.h"
#include "recipe/recipe.h"
#include "tenon/value.h"

namespace tenon::host {

struct StepReport {
  int64_t step = 0, total_steps = 0;
  double loss = 0, learning_rate = 0, grad_norm = 0, tokens_per_second = 0;
  int64_t tokens = 0;  // of this step, padding not counted
  double seconds_left = 0;
  std::map<std::string, double> metrics;  // the objective's, per unit of weight
};

struct TrainHooks {
  std::function<void(const StepReport&)> on_step;  // after every optimizer step
  std::function<void(int64_t step, double loss)> on_eval;
  std::function<bool()> cancel;  // true: stop as Ctrl-C does
};

struct TrainRequest {
  LoadedModel* model = nullptr;
  Objective* objective = nullptr;
  const Recipe* recipe = nullptr;  // with [data], [train] and output.dir
  Value plugins;                   // Registry::loaded(), for run.json
  TrainHooks hooks = {};
  bool resume = false;  // go on from the newest checkpoint-<step> in output.dir
};

struct TrainOutcome {
  int64_t resumed_from = 0;  // step
  int64_t steps = 0, total_steps = 0, tokens = 0;
  double first_loss = 0, last_loss = 0;  // of the first and last optimizer step
  std::optional<double> first_eval_loss, last_eval_loss;
  double seconds = 0;
  bool interrupted = false;  // stopped by Ctrl-C or cancel; everything was saved
};

// Reads the data, trains, and leaves in output.dir: the adapter or model, metrics.jsonl, loss.svg, run.json, checkpoint-<step>/. On an interruption the
// state after the last whole step is saved, as checkpoint-<step>/ too, and the outcome says so: the caller ends with ErrorCode::Interrupted. Error(Data) naming step and samples
// when the loss or the gradient is not a number.
TrainOutcome train(const TrainRequest& request);

}  // namespace tenon::host
