#include "train/trainer.h"

#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include "base/file.h"
#include "base/interrupt.h"
#include "base/json.h"
#include "base/log.h"
#include "support/byte_codec.h"
#include "support/fake_model.h"
#include "support/temp_dir.h"
#include "train/evaluate.h"

using namespace tenon;
using namespace tenon::host;
using tenon::testing::ByteCodec;
using tenon::testing::FakeAdapter;
using tenon::testing::FakeModel;
using tenon::testing::TempDir;

namespace {

// Mean over tokens, and on demand something that is no number.
struct MeanLoss : Objective {
  ObjectiveResult step(ObjectiveContext& context, const TrainBatch& batch) override {
    const at::Tensor logprobs = context.token_logprobs(batch).logprobs;
    ++calls;
    at::Tensor sum = -logprobs.sum();
    if (calls == break_at) sum = sum * std::numeric_limits<float>::quiet_NaN();
    return {sum, static_cast<double>(logprobs.numel()), {{"twice", 2.0 * static_cast<double>(logprobs.numel())}}};
  }
  int64_t calls = 0, break_at = -1;
};

struct Fixture {
  TempDir dir;
  Recipe recipe;
  MeanLoss objective;
  std::vector<StepReport> steps;
  std::vector<std::string> log;
  FakeModel* model = nullptr;
  double adapter_dropout = 0;
  std::vector<int64_t> recompute;

  Fixture() {
    set_log_sink([this](LogLevel, std::string_view line) { log.emplace_back(line); });
    std::string text;
    for (int i = 0; i < 12; ++i)
      text += "{\"prompt\": \"" + std::string(1 + static_cast<size_t>(i) % 3, 'a') + "\", \"completion\": \"" +
              std::string(1 + static_cast<size_t>(i) % 4, 'b') + "\"}\n";
    recipe.data.emplace();
    recipe.data->format = "prompt_completion";
    recipe.data->max_length = 32;
    recipe.data->train = {{dir.write("train.jsonl", text), "", 1}};
    recipe.data->eval = {{dir.write("eval.jsonl", text), "", 1}};
    recipe.train.emplace();
    recipe.train->learning_rate = 0.05;
    recipe.train->per_device_train_batch_size = 4;
    recipe.output_dir = dir.path() / "out";
  }
  ~Fixture() { set_log_sink(nullptr); }

  LoadedModel loaded() {
    at::manual_seed(3);
    LoadedModel result;
    auto fake = std::make_unique<FakeModel>(259, 8, 2, false);
    model = fake.get();
    auto adapter = std::make_unique<FakeAdapter>(*fake);
    adapter->dropout = adapter_dropout;
    result.model = std::move(fake);
    result.adapters.push_back({"default", "fake", std::move(adapter)});
    result.text = std::make_unique<ByteCodec>();
    result.plan.recompute = recompute;
    return result;
  }
  TrainOutcome run(LoadedModel& with, std::function<bool()> cancel = nullptr, bool resume = false) {
    steps.clear();
    TrainRequest request{&with, &objective, &recipe, Value::list(), {}};
    request.resume = resume;
    request.hooks.on_step = [this](const StepReport& report) { steps.push_back(report); };
    request.hooks.cancel = std::move(cancel);
    return train(request);
  }
  TrainOutcome run() {
    LoadedModel with = loaded();
    return run(with);
  }
  std::vector<double> losses() const {
    std::vector<double> all;
    for (const auto& step : steps) all.push_back(step.loss);
    return all;
  }
  std::vector<Value> metrics() const {
    std::vector<Value> lines;
    std::ifstream in(*recipe.output_dir / "metrics.jsonl");
    for (std::string line; std::getline(in, line);) lines.push_back(parse_json(line, "metrics"));
    return lines;
  }
  Value run_json() const { return read_json_file(*recipe.output_dir / "run.json"); }
};

void check_close(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) CHECK(a[i] == doctest::Approx(b[i]).epsilon(1e-5));  // float32 sums in another order
}

}  // namespace

TEST_CASE_FIXTURE(Fixture, "training lowers the loss and leaves its files") {
  recipe.train->num_train_epochs = 5;
  recipe.train->eval_steps = 5;
  recipe.train->eval_on_start = true;
  const TrainOutcome outcome = run();
  CHECK(outcome.steps == 15);
  CHECK(outcome.last_loss < outcome.first_loss * 0.7);
  CHECK(*outcome.last_eval_loss < *outcome.first_eval_loss * 0.7);
  const std::filesystem::path out = *recipe.output_dir;
  for (const char* name : {"adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "loss.svg", "run.json"}) {
    INFO(name);
    CHECK(std::filesystem::file_size(out / name) > 0);
  }
  const auto lines = metrics();
  REQUIRE(lines.size() == 15 + 4);
  CHECK(lines[0].at("eval_loss").as_float() > 0);
  CHECK(lines[1].at("step").as_int() == 1);
  for (const char* key : {"loss", "learning_rate", "grad_norm", "tokens_per_second", "twice"}) CHECK(lines[1].at(key).as_float() > 0);
  CHECK(lines[1].at("twice").as_float() == doctest::Approx(2));
  CHECK(run_json().at("status").as_string() == "finished");
  CHECK(run_json().at("inputs").at("data").as_list().at(0).at("sha256").as_string().size() == 64);
}

TEST_CASE_FIXTURE(Fixture, "losses do not depend on how a step is cut into batches, padded or packed") {
  recipe.train->num_train_epochs = 2;
  recipe.train->max_grad_norm = 0.5;
  run();
  const std::vector<double> whole = losses();
  CHECK(whole.size() == 6);
  recipe.train->per_device_train_batch_size = 1;
  recipe.train->gradient_accumulation_steps = 4;
  run();
  check_close(losses(), whole);
  recompute = {0, 1};
  run();
  check_close(losses(), whole);
}

TEST_CASE_FIXTURE(Fixture, "a packed run sees the same tokens as an unpacked one") {
  recipe.data->shuffle = false;
  recipe.train->per_device_train_batch_size = 100;
  run();
  const std::vector<double> plain = losses();
  recipe.data->packing = true;
  run();
  check_close(losses(), plain);
  CHECK(steps[0].tokens == 12 * 2 + 12 * 2 + 12 / 4 * (1 + 2 + 3 + 4));  // BOS and EOS, prompts of 2 on average, completions
}

TEST_CASE_FIXTURE(Fixture, "the same seed gives the same run, dropout included; another seed another order") {
  adapter_dropout = 0.3;
  recipe.train->num_train_epochs = 2;
  run();
  const std::vector<double> first = losses();
  run();
  CHECK(losses() == first);
  recompute = {0, 1};  // draws the same masks again
  run();
  check_close(losses(), first);
  recipe.train->seed = 43;
  run();
  CHECK(losses() != first);
}

TEST_CASE_FIXTURE(Fixture, "the last batch of an epoch may be smaller, and counts by its tokens") {
  recipe.train->per_device_train_batch_size = 5;
  recipe.train->num_train_epochs = 1;
  CHECK(run().steps == 3);
  recipe.train->max_steps = 7;
  CHECK(run().steps == 7);
}

TEST_CASE_FIXTURE(Fixture, "checkpoints are kept up to their limit") {
  recipe.train->max_steps = 6;
  recipe.train->save_steps = 2;
  recipe.train->save_total_limit = 2;
  run();
  const std::filesystem::path out = *recipe.output_dir;
  CHECK_FALSE(std::filesystem::exists(out / "checkpoint-2"));
  CHECK(std::filesystem::exists(out / "checkpoint-4" / "adapter_model.safetensors"));
  CHECK(std::filesystem::exists(out / "checkpoint-6" / "adapter_model.safetensors"));
}

TEST_CASE_FIXTURE(Fixture, "a stop saves the state after the last whole step") {
  recipe.train->max_steps = 50;
  LoadedModel with = loaded();
  const TrainOutcome outcome = run(with, [this] { return steps.size() >= 3; });
  CHECK(outcome.interrupted);
  CHECK(outcome.steps == 3);
  CHECK(std::filesystem::exists(*recipe.output_dir / "adapter_model.safetensors"));
  CHECK(run_json().at("status").as_string() == "interrupted");
  CHECK(run_json().at("counts").at("steps").as_int() == 3);
}

TEST_CASE_FIXTURE(Fixture, "Ctrl-C during an evaluation saves too") {
  recipe.train->max_steps = 50;
  recipe.train->eval_steps = 2;
  LoadedModel with = loaded();
  TrainRequest request{&with, &objective, &recipe, Value::list(), {}};
  request.hooks.on_step = [](const StepReport& report) {
    if (report.step == 2) set_interrupted(true);
  };
  const TrainOutcome outcome = train(request);
  set_interrupted(false);
  CHECK(outcome.interrupted);
  CHECK(outcome.steps == 2);
  CHECK(std::filesystem::exists(*recipe.output_dir / "adapter_model.safetensors"));
}

TEST_CASE_FIXTURE(Fixture, "a loss that is no number ends the run and names the samples") {
  recipe.data->shuffle = false;
  recipe.data->eval.clear();
  objective.break_at = 2;
  try {
    run();
    FAIL("expected an error");
  } catch (const Error& error) {
    const std::string text = error.what();
    INFO(text);
    CHECK(error.code() == ErrorCode::Data);
    CHECK(text.find("the loss is nan at step 2 (samples train.jsonl:5, train.jsonl:6, train.jsonl:7, train.jsonl:8)") != std::string::npos);
  }
  CHECK(run_json().at("status").as_string() == "failed");
}

TEST_CASE_FIXTURE(Fixture, "evaluation is the mean over tokens, whatever the batch size") {
  LoadedModel with = loaded();
  const EvalResult one = [&] {
    recipe.train->per_device_eval_batch_size = 1;
    return evaluate_recipe(with, recipe);
  }();
  recipe.train->per_device_eval_batch_size = 7;
  recipe.data->packing = true;
  const EvalResult packed = evaluate_recipe(with, recipe);
  CHECK(one.tokens == 12 / 4 * (1 + 2 + 3 + 4) + 12);
  CHECK(packed.tokens == one.tokens);
  CHECK(packed.loss == doctest::Approx(one.loss).epsilon(1e-6));
  CHECK(one.perplexity == doctest::Approx(std::exp(one.loss)));
}

TEST_CASE_FIXTURE(Fixture, "a resumed run ends as one that never stopped: weights, metrics, dropout") {
  adapter_dropout = 0.3;
  recipe.train->per_device_train_batch_size = 2;
  recipe.train->gradient_accumulation_steps = 2;
  recipe.train->max_steps = 11;  // of 3 an epoch
  recipe.train->logging_steps = 2;
  recipe.train->eval_steps = 4;
  recipe.train->warmup_steps = 3;
  recipe.train->lr_scheduler_type = "cosine";
  const auto result = [this] {
    std::string text = read_file(*recipe.output_dir / "adapter_model.safetensors");
    for (const Value& line : metrics())
      for (const char* key : {"step", "loss", "eval_loss", "learning_rate", "grad_norm", "epoch"})
        if (const Value* value = line.find(key)) text += std::string(key) + to_json(*value) + " ";
    return text;
  };
  run();
  const std::string whole = result();
  for (const int64_t stop : {1, 3, 4, 5, 10}) {
    CAPTURE(stop);
    recipe.output_dir = dir.path() / ("stopped-" + std::to_string(stop));
    LoadedModel first = loaded();
    CHECK(run(first, [&] { return static_cast<int64_t>(steps.size()) >= stop; }).steps == stop);
    CHECK(result() != whole);
    LoadedModel second = loaded();
    at::manual_seed(77);  // whatever was drawn in between
    const TrainOutcome outcome = run(second, nullptr, /*resume=*/true);
    CHECK(outcome.resumed_from == stop);
    CHECK(outcome.steps == 11);
    CHECK(result() == whole);
  }
  // Killed after step 9, with what step 6 had saved.
  recipe.output_dir = dir.path() / "killed";
  recipe.train->save_steps = 6;
  LoadedModel first = loaded();
  run(first, [this] { return steps.size() >= 9; });
  std::filesystem::remove_all(*recipe.output_dir / "checkpoint-9");
  LoadedModel second = loaded();
  CHECK(run(second, nullptr, true).resumed_from == 6);
  CHECK(result() == whole);
}

TEST_CASE_FIXTURE(Fixture, "what cannot be resumed says why") {
  recipe.train->max_steps = 4;
  LoadedModel with = loaded();
  const auto message = [&] {
    try {
      run(with, nullptr, true);
      return std::string("resumed");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::Recipe);
      return std::string(error.what());
    }
  };
  CHECK(message().find("there is nothing to resume in") != std::string::npos);
  recipe.train->save_steps = 2;
  run();
  recipe.train->per_device_train_batch_size = 3;
  recipe.train->seed = 7;
  const std::string text = message();
  CHECK(text.find("per_device_train_batch_size was 4, is 3") != std::string::npos);
  CHECK(text.find("seed was 42, is 7") != std::string::npos);
}

TEST_CASE_FIXTURE(Fixture, "what is missing for a run is said before it starts") {
  recipe.output_dir.reset();
  CHECK_THROWS_WITH_AS(run(), "training needs a place for its results: set output.dir", Error);
  recipe.output_dir = dir.path() / "out";
  recipe.train->optim = "lion";
  CHECK_THROWS_WITH_AS(run(), "train.optim = \"lion\" is not served yet: use \"adamw\"", Error);
}
