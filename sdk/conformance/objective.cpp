// Checks of objectives, on made-up log-probabilities.
#include <ATen/ops/full.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "kit_parts.h"
#include "quantizer_kit.h"

namespace tenon::conformance {

namespace {

constexpr int64_t kVocab = 50;

// Log-probabilities that follow from position, token and row alone; the leaf is what a model's hidden state would be.
class MadeUp final : public ObjectiveContext {
 public:
  explicit MadeUp(uint64_t seed) : table(normal({kVocab}, seed).abs().neg().sub_(0.1).set_requires_grad(true)) {}
  TokenLogprobs token_logprobs(const TrainBatch& batch) override { return of(table, batch); }
  TokenLogprobs reference_logprobs(const TrainBatch& batch) override { return of(table.detach() * 0.9, batch); }

  at::Tensor table;  // [vocab]

 private:
  static TokenLogprobs of(const at::Tensor& values, const TrainBatch& batch) {
    const at::Tensor mask = batch.labels != kIgnore;
    const at::Tensor places = mask.nonzero();
    const at::Tensor tokens = batch.labels.reshape({-1}).index_select(0, mask.reshape({-1}).nonzero().squeeze(1));
    return {values.index_select(0, tokens), places.select(1, 0).contiguous()};
  }
};

// Rows in neighbouring pairs, which objectives on "tokens" take as plain rows. `trained` labels a row.
TrainBatch batch_of(int64_t rows, int64_t trained, uint64_t seed) {
  constexpr int64_t kTime = 10;
  TrainBatch batch;
  batch.input.ids = random_ids(rows, kTime, kVocab, seed);
  batch.labels = at::full({rows, kTime}, kIgnore, at::TensorOptions().dtype(at::kLong));
  if (trained > 0) {
    const int64_t first = kTime - trained;
    batch.labels.narrow(1, first, trained).copy_(batch.input.ids.narrow(1, first, trained));
  }
  return batch;
}

TrainBatch part(const TrainBatch& batch, int64_t first, int64_t rows) {
  TrainBatch out;
  out.input.ids = batch.input.ids.narrow(0, first, rows);
  out.labels = batch.labels.narrow(0, first, rows);
  return out;
}

std::unique_ptr<Objective> objective_of(Context& c) {
  auto made = c.provider(&Registrar::objectives).make(Value::table());
  expect(made != nullptr, "make returned nothing");
  return made;
}

void check_calls(Context& c) {
  const auto objective = objective_of(c);
  const std::string kind = objective->sample_kind();
  expect(kind == "tokens" || kind == "pairs", "sample_kind() is '", kind, "', expected \"tokens\" or \"pairs\"");
  MadeUp context(c.seed());
  const ObjectiveResult result = objective->step(context, batch_of(4, 6, c.seed() + 1));
  expect(result.loss_sum.defined() && result.loss_sum.dim() == 0 && result.loss_sum.scalar_type() == at::kFloat,
         "loss_sum is no float32 scalar");
  expect(all_finite(result.loss_sum), "loss_sum is not finite");
  for (const auto& [name, value] : result.metrics) expect(std::isfinite(value), "metric '", name, "' is ", value);
}

void check_weight(Context& c) {
  const auto objective = objective_of(c);
  MadeUp context(c.seed());
  const double expected = objective->sample_kind() == "pairs" ? 2 : 24;
  const double weight = objective->step(context, batch_of(4, 6, c.seed() + 1)).weight;
  expect(weight == expected, "weight of a batch of 4 rows with 6 labels each is ", weight, ", expected ", expected, ": trained ",
         objective->sample_kind());
}

void check_additive(Context& c) {
  const auto objective = objective_of(c);
  MadeUp context(c.seed());
  const TrainBatch batch = batch_of(4, 6, c.seed() + 1);
  const ObjectiveResult whole = objective->step(context, batch), first = objective->step(context, part(batch, 0, 2)),
                        second = objective->step(context, part(batch, 2, 2));
  const double sum = first.loss_sum.item<double>() + second.loss_sum.item<double>(), loss = whole.loss_sum.item<double>();
  // float32 sums of a few dozen terms.
  expect(std::abs(sum - loss) <= 1e-5 * std::max(1.0, std::abs(loss)), "loss_sum of a batch is ", loss, ", of its two halves together ",
         sum);
  expect(whole.weight == first.weight + second.weight, "weight of a batch is ", whole.weight, ", of its two halves together ",
         first.weight + second.weight);
}

void check_gradient(Context& c) {
  const auto objective = objective_of(c);
  MadeUp context(c.seed());
  const TrainBatch batch = batch_of(4, 6, c.seed() + 1);
  objective->step(context, batch).loss_sum.backward();
  const at::Tensor grad = context.table.grad();
  expect(grad.defined() && all_finite(grad), "no finite gradient reaches the log-probabilities");
  expect(grad.abs().max().item<float>() > 0, "the gradient is zero everywhere");
  // Central differences along the gradient's own signs.
  const at::Tensor step = grad.sign() * normal({kVocab}, c.seed() + 2).abs();
  auto value = [&](double by) {
    MadeUp moved(c.seed());
    moved.table = context.table.detach() + step * by;
    // The reference stays: it is another model.
    return objective->step(moved, batch).loss_sum.to(at::kDouble).item<double>();
  };
  if (objective->sample_kind() == "pairs") return;  // there the made-up reference moves along, which a real one does not
  constexpr double kStep = 1e-2;
  const double slope = (value(kStep) - value(-kStep)) / (2 * kStep);
  const double promised = (grad.to(at::kDouble) * step.to(at::kDouble)).sum().item<double>();
  expect(std::abs(slope - promised) <= 0.02 * std::abs(promised), "along a direction the loss changes by ", slope, ", its gradient says ",
         promised);
}

void check_masked(Context& c) {
  const auto objective = objective_of(c);
  MadeUp context(c.seed());
  if (objective->sample_kind() == "pairs") skipped("pairs always have labels");
  const ObjectiveResult result = objective->step(context, batch_of(2, 0, c.seed()));
  expect(result.weight == 0, "a batch without labels has weight ", result.weight);
  expect(result.loss_sum.item<double>() == 0, "a batch without labels has loss_sum ", result.loss_sum.item<double>());
}

void check_repeatable(Context& c) {
  const auto objective = objective_of(c);
  MadeUp context(c.seed());
  const TrainBatch batch = batch_of(4, 6, c.seed() + 1);
  const TrainBatch before{.input = {.ids = batch.input.ids.clone()}, .labels = batch.labels.clone()};
  const at::Tensor first = objective->step(context, batch).loss_sum.detach();
  expect(same_bytes(batch.labels, before.labels) && same_bytes(batch.input.ids, before.input.ids), "step() wrote to its batch");
  expect(same_bytes(objective->step(context, batch).loss_sum.detach(), first), "the same batch twice gives another loss");
}

}  // namespace

std::vector<Check> objective_checks() {
  constexpr const char* kBase = "objective.calls";
  return {
      {kBase, 1, "load.names options.defaults", "The least an objective must do: a finite float32 loss of a batch.", check_calls},
      {"objective.weight", 1, kBase, "The step's loss is divided by the weight: a wrong one is another learning rate.", check_weight},
      {"objective.additive", 1, kBase, "Accumulated batches must train as one large batch does.", check_additive},
      {"objective.gradient", 1, kBase, "What is minimised must be what is shown.", check_gradient},
      {"objective.masked", 1, kBase, "A batch without labels must count nothing, and not become NaN.", check_masked},
      {"objective.repeatable", 1, kBase, "Evaluation repeats the same batches: the loss must not depend on what ran before.",
       check_repeatable},
  };
}

}  // namespace tenon::conformance
