#include "cli/bench.h"

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cstdio>
#include <optional>

#include "base/seconds.h"
#include "generate/generator.h"
#include "generate/prompts.h"
#include "generate/sampler.h"
#include "model/devices.h"
#include "model/load.h"
#include "train/context.h"
#include "train/optimizer.h"

namespace tenon::host {

namespace {

double megabytes(int64_t bytes) { return static_cast<double>(bytes) / 1e6; }

// Shown at once: the reader on the other side of the pipe waits for it.
void print_line(const std::string& line) {
  std::fputs((line + "\n").c_str(), stdout);
  std::fflush(stdout);
}

std::vector<int64_t> random_ids(const LoadedModel& model, size_t count) {
  RandomStream random(0, 0);
  std::vector<int64_t> ids(count);
  for (auto& id : ids) id = static_cast<int64_t>(random.next() % static_cast<uint64_t>(model.model->blueprint().vocab_size));
  return ids;
}

// Tokens a second, of the 17th to the 48th.
void bench_decode(LoadedModel& model, GenerateRequest request) {
  request.settings = {};
  double took[2] = {};
  const int64_t tokens[] = {4, 16, 48};
  for (int i = 0; i < 3; ++i) {
    request.settings.max_new_tokens = request.min_new_tokens = tokens[i];
    const auto start = Clock::now();
    generate(model, request);
    if (i > 0) took[i - 1] = seconds_since(start);  // the first one warms up
  }
  print_line(fmt::format("decode {:.2f} token/s", static_cast<double>(tokens[2] - tokens[1]) / (took[1] - took[0])));
}

// The pictures of all conversations in the file, read and made into tensors one by one; then the first conversation until its first token, and on.
void bench_vision(LoadedModel& model, const std::string& file) {
  if (!model.text) fail(ErrorCode::Data, "the checkpoint has no tokenizer");
  std::vector<Medium> pictures;
  std::optional<Prompt> prompt;
  for (const auto& conversation : read_conversations(file)) {
    Prompt next = read_prompt(*model.text, model.media, conversation);
    pictures.insert(pictures.end(), next.media.begin(), next.media.end());
    if (!prompt) prompt = std::move(next);
  }
  if (pictures.empty()) fail(ErrorCode::Data, file, ": no media in its conversations");
  constexpr int kPasses = 3;
  auto start = Clock::now();
  for (int pass = 0; pass <= kPasses; ++pass) {
    if (pass == 1) start = Clock::now();  // the first one warms up
    for (const auto& picture : pictures) model.media.processor->load({picture});
  }
  print_line(fmt::format("preprocess {:.2f} image/s", kPasses * static_cast<double>(pictures.size()) / seconds_since(start)));
  GenerateRequest request;
  request.prompts = {prompt->ids}, request.media = {prompt->media};
  request.settings.max_new_tokens = request.min_new_tokens = 1;
  generate(model, request);
  start = Clock::now();
  generate(model, request);
  print_line(fmt::format("prefill {:.3f} s, {} tokens", seconds_since(start), prompt->ids.size()));
  bench_decode(model, std::move(request));
}

// No clipping, as the peers do it.
void bench_train(LoadedModel& model, const Recipe& recipe, Registry& registry) {
  constexpr int64_t kTokens = 512;
  const auto objective = registry.objective(recipe.train->objective).make(recipe.train->objective_options);
  AdamW optimizer(model.trainable(), *recipe.train);
  const RecomputeList recompute(model.plan.recompute);
  TrainBatch batch;
  batch.input.ids = at::empty({1, kTokens}, at::kLong);
  const auto ids = random_ids(model, kTokens);
  std::copy(ids.begin(), ids.end(), batch.input.ids.mutable_data_ptr<int64_t>());
  batch.labels = batch.input.ids.clone();
  batch.labels.mutable_data_ptr<int64_t>()[0] = kIgnore;
  at::manual_seed(0);
  model.set_training(true);
  for (int step = 0; step < 4; ++step) {
    reset_host_memory_peak();
    const auto start = Clock::now();
    StepContext context(model, recompute);
    const ObjectiveResult result = objective->step(context, batch);
    torch::autograd::backward({result.loss_sum});
    context.backward();
    scale_gradients(optimizer.parameters(), 1 / result.weight);
    optimizer.step(recipe.train->learning_rate);
    clear_gradients(optimizer.parameters());
    const double seconds = seconds_since(start);
    print_line(fmt::format("step {}: {:.2f} s, {:.1f} token/s, peak RSS {:.0f} MB", step, seconds, kTokens / seconds,
                           megabytes(host_memory_peak())));
  }
}

}  // namespace

void bench(const Recipe& recipe, Registry& registry, const std::vector<std::string>& work) {
  const std::vector<std::string> known{"load", "decode", "train", "kernels"};
  const std::string vision = "vision=";
  for (const auto& part : work)
    if (std::find(known.begin(), known.end(), part) == known.end() && !part.starts_with(vision))
      fail(ErrorCode::Usage, "unknown work '", part, "', expected load, decode, train, kernels or vision=FILE");
  auto wants = [&](const char* part) { return std::find(work.begin(), work.end(), part) != work.end(); };
  if (wants("train") && !recipe.train) fail(ErrorCode::Recipe, "the recipe has no [train]");

  if (wants("kernels")) bench_kernels(recipe, registry);
  if (work == std::vector<std::string>{"kernels"}) return;
  reset_host_memory_peak();
  const auto start = Clock::now();
  const auto model = load_model({.recipe = &recipe, .registry = &registry, .for_training = wants("train")});
  print_line(fmt::format("load {:.2f} s, weights {:.0f} MB, peak RSS {:.0f} MB", seconds_since(start),
                         megabytes(model->plan.totals.weights), megabytes(host_memory_peak())));
  if (wants("decode")) bench_decode(*model, {.prompts = {random_ids(*model, 32)}, .settings = {}});
  for (const auto& part : work)
    if (part.starts_with(vision)) bench_vision(*model, part.substr(vision.size()));
  if (wants("train")) bench_train(*model, recipe, registry);
}

}  // namespace tenon::host
