#include "train/trainer.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <numeric>

#include "base/file.h"
#include "base/interrupt.h"
#include "base/json.h"
#include "base/log.h"
#include "base/seconds.h"
#include "base/text.h"
#include "data/batches.h"
#include "data/report.h"
#include "data/shuffle.h"
#include "model/devices.h"
#include "tenon/version.h"
#include "train/context.h"
#include "train/evaluate.h"
#include "train/metrics.h"
#include "train/optimizer.h"
#include "train/outputs.h"
#include "train/plot.h"
#include "train/resume.h"
#include "train/schedule.h"

namespace tenon::host {

namespace fs = std::filesystem;

namespace {

// JSON has no NaN, and a number with 17 digits is no more true than one with 7.
double rounded(double value) { return std::stod(fmt::format("{:.7g}", value)); }

class Trainer {
 public:
  explicit Trainer(const TrainRequest& request);
  TrainOutcome run();
  void write_run(const char* status) const;

 private:
  struct StepSums {
    double loss_sum = 0, weight = 0;
    int64_t tokens = 0;
    std::map<std::string, double> metrics;
  };
  bool should_stop() const { return interrupted() || (request_.hooks.cancel && request_.hooks.cancel()); }
  // False when it was told to stop before the step was whole.
  bool optimizer_step(std::span<const int64_t> rows, int64_t step);
  StepSums accumulate(std::span<const int64_t> rows, int64_t step, bool& stopped);
  void report(const StepSums& sums, int64_t step, double learning_rate, double norm, double seconds);
  void evaluate_now(int64_t step);
  void finish();
  void write_plot() const;
  Value identity() const;
  Value counters() const;
  void restore();
  void checkpoint();

  const TrainRequest& request_;
  LoadedModel& model_;
  const Recipe& recipe_;
  const TrainSection& options_;
  fs::path folder_;
  Dataset data_, eval_data_;
  StepPlan plan_;
  RecomputeList recompute_;
  std::optional<AdamW> optimizer_;
  std::optional<MetricsLog> metrics_;
  std::optional<Progress> progress_;
  Value inputs_;
  TrainOutcome outcome_;
  Points losses_, eval_losses_;
  double pending_loss_ = 0;  // since the last logged line
  int64_t pending_steps_ = 0;
  double start_ = 0;
  int64_t peak_after_load_ = 0;
  fs::path resume_point_;
};

Dataset read_set(const TrainRequest& request, bool is_eval) {
  LoadedModel& model = *request.model;
  const Recipe& recipe = *request.recipe;
  DatasetRequest wanted;
  wanted.data = &*recipe.data;
  wanted.is_eval = is_eval;
  wanted.text = model.text.get();
  wanted.end_ids = model.eos_ids();
  wanted.vocab_size = model.model->blueprint().vocab_size;
  wanted.seed = recipe.train->seed;
  wanted.media = model.media;
  wanted.media_folder = recipe.media.folder;
  wanted.sample_kind = request.objective->sample_kind();
  Dataset set = build_dataset(wanted);
  for (const auto& warning : set.warnings) log_warn(warning);
  log_info(concat(is_eval ? "eval data: " : "train data: ", summary_line(set)));
  return set;
}

const Recipe& checked(const TrainRequest& request) {
  const Recipe& recipe = *request.recipe;
  if (!recipe.train) fail(ErrorCode::Recipe, "the recipe has no [train]");
  if (!recipe.data || recipe.data->train.empty()) fail(ErrorCode::Recipe, "there is nothing to train on: name files in data.train");
  if (!recipe.output_dir) fail(ErrorCode::Recipe, "training needs a place for its results: set output.dir");
  if (recipe.train->optim != "adamw")
    fail(ErrorCode::Recipe, "train.optim = \"", recipe.train->optim, "\" is not served yet: use \"adamw\"");
  schedule_factor(recipe.train->lr_scheduler_type, 0, 0, 1);  // an unknown name ends the run here
  return recipe;
}

Trainer::Trainer(const TrainRequest& request)
    : request_(request),
      model_(*request.model),
      recipe_(checked(request)),
      options_(*recipe_.train),
      folder_(*recipe_.output_dir),
      recompute_(model_.plan.recompute) {
  peak_after_load_ = host_memory_peak();
  const std::vector<AdapterParameter> leaves = model_.trainable();
  if (leaves.empty()) fail(ErrorCode::Recipe, "nothing is trainable: add an [adapter], or remove the quantizer to train the whole model");
  data_ = read_set(request, false);
  if (!recipe_.data->eval.empty()) eval_data_ = read_set(request, true);
  if (const int64_t context = model_.model->blueprint().context_length; context > 0 && data_.max_length > context)
    for (const Row& row : data_.rows)
      if (row.length > context) {
        log_warn(concat("rows of up to ", data_.max_length, " tokens are longer than the model's context of ", context,
                        ": positions beyond it are untrained"));
        break;
      }
  plan_ = plan_steps(options_, static_cast<int64_t>(data_.rows.size()));
  optimizer_.emplace(leaves, options_);

  inputs_ = input_hashes(model_, recipe_);
  outcome_.total_steps = plan_.total_steps;
  if (request.resume) {
    restore();
    return;
  }
  fs::create_directories(folder_);
  if (fs::exists(folder_ / "run.json")) log_warn(concat(folder_.string(), " holds an earlier run: its files are replaced"));
  metrics_.emplace(folder_ / "metrics.jsonl");
}

// What must be as it was for the steps to go on as they would have.
Value Trainer::identity() const {
  Value id = Value::table();
  id.set("data", *inputs_.find("data"));
  id.set("rows", data_.rows.size()), id.set("shuffle", recipe_.data->shuffle), id.set("seed", options_.seed);
  id.set("per_device_train_batch_size", options_.per_device_train_batch_size);
  id.set("gradient_accumulation_steps", options_.gradient_accumulation_steps);
  id.set("objective", options_.objective);
  return id;
}

Value Trainer::counters() const {
  Value state = Value::table();
  state.set("step", outcome_.steps), state.set("total_steps", plan_.total_steps), state.set("tokens", outcome_.tokens);
  state.set("learning_rate", options_.learning_rate), state.set("lr_scheduler_type", options_.lr_scheduler_type);
  state.set("first_loss", outcome_.first_loss), state.set("last_loss", outcome_.last_loss);
  state.set("first_eval_loss", Value(outcome_.first_eval_loss)), state.set("last_eval_loss", Value(outcome_.last_eval_loss));
  state.set("pending_loss", pending_loss_), state.set("pending_steps", pending_steps_);
  state.set("run", identity());
  return state;
}

void Trainer::restore() {
  resume_point_ = find_resume_point(folder_);
  const Value state = read_training_counters(resume_point_);
  const Value now_is = identity(), was = state.find_set("run") ? state.at("run") : Value::table();
  std::vector<std::string> differing;
  for (const auto& [key, value] : now_is.as_table())
    if (const Value* before = was.find(key); !before || !(*before == value))
      differing.push_back(key == "data" ? "the data files have changed"
                                        : concat(key, " was ", before ? to_json(*before) : "not set", ", is ", to_json(value)));
  if (!differing.empty())
    fail(ErrorCode::Recipe, "'", resume_point_.string(), "' belongs to another run:\n  ", join(differing, "\n  "),
         "\nrun without --resume, or with the recipe and data that it was made with");
  if (state.at("total_steps").as_int() != plan_.total_steps || state.at("learning_rate").as_float() != options_.learning_rate ||
      state.at("lr_scheduler_type").as_string() != options_.lr_scheduler_type)
    log_warn("the schedule is another one than before the stop: the learning rate will jump to where the new one stands");
  load_training_state(resume_point_, *optimizer_);
  outcome_.steps = outcome_.resumed_from = state.at("step").as_int();
  outcome_.tokens = state.at("tokens").as_int();
  outcome_.first_loss = state.at("first_loss").as_float(), outcome_.last_loss = state.at("last_loss").as_float();
  if (const Value* loss = state.find_set("first_eval_loss")) outcome_.first_eval_loss = loss->as_float();
  if (const Value* loss = state.find_set("last_eval_loss")) outcome_.last_eval_loss = loss->as_float();
  pending_loss_ = state.at("pending_loss").as_float(), pending_steps_ = state.at("pending_steps").as_int();
  metrics_.emplace(folder_ / "metrics.jsonl", outcome_.steps);
  for (const Value& row : metrics_->kept()) {
    const auto step = static_cast<double>(row.at("step").as_int());
    if (const Value* loss = row.find("loss")) losses_.emplace_back(step, loss->as_float());
    if (const Value* loss = row.find("eval_loss")) eval_losses_.emplace_back(step, loss->as_float());
  }
  log_info(concat("resuming after step ", outcome_.steps, " of ", plan_.total_steps, ": ", resume_point_.string()));
}

void Trainer::checkpoint() {
  save_checkpoint(model_, recipe_, folder_, outcome_.steps, options_.save_total_limit,
                  [&](const fs::path& folder) { save_training_state(folder, *optimizer_, counters()); });
}

TrainOutcome Trainer::run() {
  int64_t parameters = 0;
  for (const auto& leaf : optimizer_->parameters()) parameters += leaf.tensor.numel();
  log_info(fmt::format("training {} parameters, {} steps of up to {} rows, {} epoch{}", human_count(parameters), plan_.total_steps,
                       options_.per_device_train_batch_size * options_.gradient_accumulation_steps, plan_.epochs,
                       plan_.epochs == 1 ? "" : "s"));
  write_run("running");
  if (!request_.resume) at::manual_seed(static_cast<uint64_t>(options_.seed));  // dropout
  model_.set_training(true);
  start_ = now();
  if (!request_.resume && options_.eval_on_start && !eval_data_.rows.empty()) evaluate_now(0);
  // A stop may have fallen between a step and its evaluation.
  const bool was_evaluated = !eval_losses_.empty() && eval_losses_.back().first == static_cast<double>(outcome_.steps);
  if (request_.resume && options_.eval_steps > 0 && outcome_.steps % options_.eval_steps == 0 && !eval_data_.rows.empty() && !was_evaluated)
    evaluate_now(outcome_.steps);
  progress_.emplace("training", plan_.total_steps, false);
  progress_->add(outcome_.steps);
  const int64_t rows_per_step = options_.per_device_train_batch_size * options_.gradient_accumulation_steps;
  const auto rows = static_cast<int64_t>(data_.rows.size());
  const int64_t done_before = outcome_.steps % plan_.steps_per_epoch;  // of the epoch at work
  for (int64_t epoch = outcome_.steps / plan_.steps_per_epoch; outcome_.steps < plan_.total_steps && !outcome_.interrupted; ++epoch) {
    std::vector<int64_t> order(static_cast<size_t>(rows));
    if (recipe_.data->shuffle)
      order = shuffled(rows, options_.seed, epoch);
    else
      std::iota(order.begin(), order.end(), 0);
    const bool is_begun = epoch == outcome_.resumed_from / plan_.steps_per_epoch;
    for (int64_t first = is_begun ? done_before * rows_per_step : 0; first < rows && outcome_.steps < plan_.total_steps;
         first += rows_per_step) {
      const std::span<const int64_t> part(order.data() + first, static_cast<size_t>(std::min(rows_per_step, rows - first)));
      const int64_t step = outcome_.steps + 1;
      if (!optimizer_step(part, step)) {
        outcome_.interrupted = true;
        break;
      }
      outcome_.steps = step;
      if (options_.eval_steps > 0 && step % options_.eval_steps == 0 && !eval_data_.rows.empty()) evaluate_now(step);
      if (outcome_.interrupted) break;
      if (options_.save_steps > 0 && step % options_.save_steps == 0) checkpoint();
    }
  }
  progress_->finish();
  progress_.reset();
  finish();
  return outcome_;
}

Trainer::StepSums Trainer::accumulate(std::span<const int64_t> rows, int64_t step, bool& stopped) {
  StepSums sums;
  const auto batch_size = static_cast<size_t>(options_.per_device_train_batch_size);
  for (size_t first = 0; first < rows.size(); first += batch_size) {
    if ((stopped = should_stop())) return sums;
    const auto part = rows.subspan(first, std::min(batch_size, rows.size() - first));
    StepContext context(model_, recompute_);
    const ObjectiveResult result = request_.objective->step(context, make_batch(data_, part));
    at::Tensor loss = result.loss_sum;
    if (const at::Tensor auxiliary = context.auxiliary_loss(); auxiliary.defined())
      loss = loss + auxiliary.to(loss.device()) * result.weight;
    const double loss_sum = loss.item<double>();
    if (!std::isfinite(loss_sum))
      fail(ErrorCode::Data, "the loss is ", loss_sum, " at step ", step, " (samples ", origins(data_, part),
           "): lower train.learning_rate, or look at these samples with `host data`");
    if (loss.requires_grad()) {
      torch::autograd::backward({loss});
      context.backward();
    }
    sums.loss_sum += loss_sum;
    sums.weight += result.weight;
    sums.tokens += token_count(data_, part);
    for (const auto& [name, value] : result.metrics) sums.metrics[name] += value;
  }
  return sums;
}

bool Trainer::optimizer_step(std::span<const int64_t> rows, int64_t step) {
  const double began = now();
  const auto& parameters = optimizer_->parameters();
  clear_gradients(parameters);
  bool stopped = false;
  const StepSums sums = accumulate(rows, step, stopped);
  if (stopped) return false;
  if (sums.weight <= 0) fail(ErrorCode::Data, "step ", step, " has nothing to train on (samples ", origins(data_, rows), ")");
  // One division for the whole step: the mean over its trained tokens, however it was cut into batches.
  scale_gradients(parameters, 1 / sums.weight);
  const double norm = gradient_norm(parameters);
  if (!std::isfinite(norm))
    fail(ErrorCode::Data, "the gradient is ", norm, " at step ", step, " (samples ", origins(data_, rows),
         "): lower train.learning_rate, or train in bfloat16 or float32");
  if (options_.max_grad_norm > 0) clip_gradients(parameters, norm, options_.max_grad_norm);
  const double learning_rate =
      options_.learning_rate * schedule_factor(options_.lr_scheduler_type, step - 1, plan_.warmup_steps, plan_.total_steps);
  optimizer_->step(learning_rate);
  clear_gradients(parameters);
  report(sums, step, learning_rate, norm, now() - began);
  return true;
}

void Trainer::report(const StepSums& sums, int64_t step, double learning_rate, double norm, double seconds) {
  StepReport line{step,
                  plan_.total_steps,
                  sums.loss_sum / sums.weight,
                  learning_rate,
                  norm,
                  static_cast<double>(sums.tokens) / std::max(seconds, 1e-9),
                  sums.tokens,
                  0,
                  {}};
  line.seconds_left = (now() - start_) / static_cast<double>(step - outcome_.resumed_from) * static_cast<double>(plan_.total_steps - step);
  for (const auto& [name, value] : sums.metrics) line.metrics[name] = value / sums.weight;
  if (step == 1) outcome_.first_loss = line.loss;
  outcome_.last_loss = line.loss;
  outcome_.tokens += sums.tokens;
  pending_loss_ += line.loss;
  ++pending_steps_;
  const bool is_last = step == plan_.total_steps;
  if (is_last || (options_.logging_steps > 0 && step % options_.logging_steps == 0)) {
    const double loss = pending_loss_ / static_cast<double>(pending_steps_);
    Value row = Value::table();
    row.set("step", step);
    row.set("loss", rounded(loss));
    row.set("learning_rate", rounded(learning_rate));
    row.set("grad_norm", rounded(norm));
    row.set("tokens_per_second", rounded(line.tokens_per_second));
    row.set("epoch", rounded(static_cast<double>(step) / static_cast<double>(plan_.steps_per_epoch)));
    for (const auto& [name, value] : line.metrics) row.set(name, rounded(value));
    metrics_->write(row);
    losses_.emplace_back(static_cast<double>(step), loss);
    pending_loss_ = 0;
    pending_steps_ = 0;
  }
  progress_->note(fmt::format("loss {:.4f}, {} token/s, {}", line.loss, human_count(static_cast<int64_t>(line.tokens_per_second)),
                              human_bytes(host_memory_now())));
  progress_->add(1);
  // Where there is no live line, about twenty lines a run.
  static const bool on_terminal = ::isatty(STDERR_FILENO) == 1;
  if (!on_terminal && (step == 1 || is_last || step % std::max<int64_t>(1, plan_.total_steps / 20) == 0))
    log_info(fmt::format("step {} of {}: loss {:.4f}, learning rate {:.3g}, {} token/s, {}, {} left", step, plan_.total_steps, line.loss,
                         learning_rate, human_count(static_cast<int64_t>(line.tokens_per_second)), human_bytes(host_memory_now()),
                         human_seconds(line.seconds_left)));
  if (request_.hooks.on_step) request_.hooks.on_step(line);
}

void Trainer::evaluate_now(int64_t step) {
  model_.set_training(false);
  const int64_t batch_size =
      options_.per_device_eval_batch_size > 0 ? options_.per_device_eval_batch_size : options_.per_device_train_batch_size;
  EvalResult result;
  try {
    result = evaluate(model_, request_.objective, eval_data_, batch_size);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::Interrupted) throw;
    outcome_.interrupted = true;  // what was trained is saved all the same
  }
  model_.set_training(true);
  if (outcome_.interrupted) return;
  if (!outcome_.first_eval_loss) outcome_.first_eval_loss = result.loss;
  outcome_.last_eval_loss = result.loss;
  eval_losses_.emplace_back(static_cast<double>(step), result.loss);
  Value row = Value::table();
  row.set("step", step);
  row.set("eval_loss", rounded(result.loss));
  row.set("eval_tokens", result.tokens);
  row.set("eval_seconds", rounded(result.seconds));
  metrics_->write(row);
  log_info(fmt::format("step {}: evaluation loss {:.4f} over {} tokens", step, result.loss, human_count(result.tokens)));
  if (request_.hooks.on_eval) request_.hooks.on_eval(step, result.loss);
}

void Trainer::finish() {
  // The last evaluation belongs to the weights that are saved; a stop does not wait for it.
  const bool is_due =
      !eval_data_.rows.empty() && (eval_losses_.empty() || eval_losses_.back().first != static_cast<double>(outcome_.steps));
  if (is_due && !outcome_.interrupted) evaluate_now(outcome_.steps);
  model_.set_training(false);
  outcome_.seconds = now() - start_;
  // Saving is what the first Ctrl-C asks for; only a second one may break it off.
  const bool was_interrupted = interrupted();
  set_interrupted(false);
  save_trained(model_, recipe_, folder_);
  if (outcome_.interrupted && outcome_.steps > 0) checkpoint();
  set_interrupted(was_interrupted);
  write_plot();
  write_run(outcome_.interrupted ? "interrupted" : "finished");
  log_info(fmt::format("{} after {} of {} steps in {}: {}", outcome_.interrupted ? "stopped" : "trained", outcome_.steps, plan_.total_steps,
                       human_seconds(outcome_.seconds), folder_.string()));
}

void Trainer::write_plot() const { write_file(folder_ / "loss.svg", loss_svg(losses_, eval_losses_, folder_.filename().string())); }

void Trainer::write_run(const char* status) const {
  Value run = Value::table();
  run.set("status", status);
  run.set("tenon", concat(TENON_SDK_MAJOR, ".", TENON_SDK_MINOR));
  run.set("recipe", recipe_.resolved);
  run.set("plugins", request_.plugins);
  run.set("inputs", inputs_);
  Value counts = Value::table();
  counts.set("steps", outcome_.steps);
  counts.set("total_steps", plan_.total_steps);
  if (request_.resume) counts.set("resumed_from", outcome_.resumed_from);
  counts.set("warmup_steps", plan_.warmup_steps);
  counts.set("rows", data_.rows.size());
  counts.set("samples", data_.counts.samples);
  counts.set("tokens", outcome_.tokens);
  counts.set("dropped_or_truncated", data_.counts.overlong);
  counts.set("dropped_untrained", data_.counts.untrained);
  run.set("counts", std::move(counts));
  if (outcome_.steps > 0) run.set("train_loss", rounded(outcome_.last_loss));
  if (outcome_.last_eval_loss) run.set("eval_loss", rounded(*outcome_.last_eval_loss));
  run.set("seconds", rounded(outcome_.seconds));
  const Value plan = model_.plan.to_json_value();
  if (const Value* totals = plan.find("totals")) run.set("planned", *totals);
  Value measured = Value::table();
  measured.set("host_peak_after_load", peak_after_load_);
  measured.set("host_peak", host_memory_peak());
  run.set("measured", std::move(measured));
  write_file(folder_ / "run.json", to_json(run, 2) + "\n");
}

}  // namespace

TrainOutcome train(const TrainRequest& request) {
  Trainer trainer(request);
  try {
    return trainer.run();
  } catch (...) {
    trainer.write_run("failed");
    throw;
  }
}

}  // namespace tenon::host
