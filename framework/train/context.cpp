#include "train/context.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <vector>

namespace tenon::host {

namespace {

at::Tensor tensor_of(const std::vector<int64_t>& values) {
  at::Tensor t = at::empty({static_cast<int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), t.mutable_data_ptr<int64_t>());
  return t;
}

}  // namespace

TokenLogprobs label_logprobs(LoadedModel& model, Tape& tape, const TrainBatch& batch) {
  const at::Tensor labels = batch.labels.contiguous();
  const int64_t rows = labels.size(0), width = labels.size(1);
  const int64_t* label = labels.const_data_ptr<int64_t>();
  // The hidden state at t - 1 predicts the label at t.
  std::vector<int64_t> places, targets, row;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t t = 1; t < width; ++t)
      if (const int64_t target = label[r * width + t]; target != kIgnore)
        places.push_back(r * width + t - 1), targets.push_back(target), row.push_back(r);
  if (places.empty()) return {at::zeros({0}, at::kFloat), tensor_of(row)};

  Batch input = batch.input;
  const at::Device device = model.parts ? model.parts->device(-1, 0) : at::Device(at::kCPU);
  input.ids = input.ids.to(device);
  if (input.segments.defined()) input.segments = input.segments.to(device);
  if (input.positions.defined()) input.positions = input.positions.to(device);
  for (auto& [name, media] : input.media) media = media.to(device);
  const at::Tensor hidden = tape.forward(input);
  const at::Tensor chosen = hidden.reshape({rows * width, hidden.size(-1)}).index_select(0, tensor_of(places).to(hidden.device()));
  return {model.model->token_logprobs(chosen, tensor_of(targets).to(hidden.device())), tensor_of(row)};
}

TokenLogprobs StepContext::token_logprobs(const TrainBatch& batch) {
  tapes_.emplace_back(*model_.model, recompute_);
  return label_logprobs(model_, tapes_.back(), batch);
}

TokenLogprobs StepContext::reference_logprobs(const TrainBatch& batch) {
  struct AdaptersOff {
    explicit AdaptersOff(LoadedModel& m) : model(m) { model.set_adapters_enabled(false); }
    ~AdaptersOff() { model.set_adapters_enabled(true); }
    LoadedModel& model;
  } off(model_);
  at::NoGradGuard no_grad;
  Tape tape(*model_.model, recompute_);
  return label_logprobs(model_, tape, batch);
}

at::Tensor StepContext::auxiliary_loss() const {
  at::Tensor sum;
  for (const Tape& tape : tapes_)
    if (const at::Tensor& loss = tape.auxiliary_loss(); loss.defined()) sum = sum.defined() ? sum + loss : loss;
  return sum;
}

void StepContext::backward() {
  for (; !tapes_.empty(); tapes_.pop_back()) tapes_.back().backward();
}

}  // namespace tenon::host
