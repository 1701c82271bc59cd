#include "generate/generator.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <memory>

#include "base/interrupt.h"
#include "base/log.h"
#include "base/seconds.h"
#include "generate/sampler.h"
#include "generate/stop.h"
#include "model/forward.h"

namespace tenon::host {

namespace {

// One sequence at work.
struct Row {
  size_t prompt = 0;
  std::vector<int64_t> prompt_ids;
  int64_t limit = 0;  // new tokens at most
  Sampler sampler;
  StopFinder stops;
  std::unique_ptr<StreamDecoder> decoder;  // null without a tokenizer
  Generated output;

  bool is_finished() const { return !output.finish_reason.empty(); }
};

class Run {
 public:
  Run(LoadedModel& model, const GenerateRequest& request) : model_(model), request_(request), eos_(model.eos_ids()) {
    if (model.parts) device_ = model.parts->device(-1, 0);
  }

  std::vector<Row> rows(const std::vector<std::vector<int64_t>>& prompts, size_t first, size_t last) const {
    std::vector<Row> rows;
    for (size_t i = first; i < last; ++i) {
      const auto& ids = prompts[i];
      rows.push_back(Row{.prompt = i,
                         .prompt_ids = ids,
                         .limit = limit(ids.size()),
                         .sampler = Sampler(request_.settings, ids, i),
                         .stops = StopFinder(request_.settings.stop),
                         .decoder = model_.text ? model_.text->stream(true) : nullptr,
                         .output = {}});
      if (rows.back().limit == 0) rows.back().output.finish_reason = "length";
    }
    return rows;
  }

  // false: cancelled.
  bool decode(std::vector<Row>& rows, Generation& totals) const;

 private:
  int64_t limit(size_t prompt_tokens) const {
    const int64_t room = model_.model->blueprint().context_length - static_cast<int64_t>(prompt_tokens);
    return model_.model->blueprint().context_length > 0 ? std::min(request_.settings.max_new_tokens, room)
                                                        : request_.settings.max_new_tokens;
  }
  Batch prompt_batch(const std::vector<Row>& rows, int64_t width) const;
  void take(Row& row, int64_t id) const;
  void show(Row& row, std::string text) const;
  bool is_cancelled() const {
    if (request_.cancel) return request_.cancel();
    throw_if_interrupted();
    return false;
  }

  LoadedModel& model_;
  const GenerateRequest& request_;
  const std::vector<int64_t> eos_;
  at::Device device_ = at::kCPU;
};

// Prompts end at the same column; what stands before a shorter one is padding: segment 0.
Batch Run::prompt_batch(const std::vector<Row>& rows, int64_t width) const {
  const auto count = static_cast<int64_t>(rows.size());
  Batch batch;
  batch.ids = at::zeros({count, width}, at::kLong);
  at::Tensor segments = at::zeros({count, width}, at::kLong);
  bool has_padding = false;
  auto* ids = batch.ids.mutable_data_ptr<int64_t>();
  auto* segment = segments.mutable_data_ptr<int64_t>();
  for (const Row& row : rows) {
    const auto padding = static_cast<size_t>(width) - row.prompt_ids.size();
    has_padding |= padding > 0;
    std::copy(row.prompt_ids.begin(), row.prompt_ids.end(), ids + padding);
    std::fill(segment + padding, segment + width, 1);
    ids += width, segment += width;
  }
  std::vector<Medium> media;
  for (const Row& row : rows)
    if (row.prompt < request_.media.size()) media.insert(media.end(), request_.media[row.prompt].begin(), request_.media[row.prompt].end());
  if (!media.empty()) batch.media = model_.media.processor->load(media);
  batch.ids = batch.ids.to(device_);
  if (has_padding) batch.segments = segments.to(device_);
  return batch;
}

void Run::show(Row& row, std::string text) const {
  if (text.empty()) return;
  if (request_.on_piece) request_.on_piece(row.prompt, text);
  row.output.text += text;
}

void Run::take(Row& row, int64_t id) const {
  row.output.ids.push_back(id);
  const bool is_end = std::find(eos_.begin(), eos_.end(), id) != eos_.end();
  if (row.decoder && !is_end) show(row, row.stops.push(row.decoder->push(id)));
  if (row.stops.stopped() || is_end)
    row.output.finish_reason = "stop";
  else if (static_cast<int64_t>(row.output.ids.size()) >= row.limit)
    row.output.finish_reason = "length";
  if (row.is_finished() && row.decoder && !row.stops.stopped()) {
    show(row, row.stops.push(row.decoder->finish()));
    show(row, row.stops.finish());
  }
}

bool Run::decode(std::vector<Row>& rows, Generation& totals) const {
  const auto count = static_cast<int64_t>(rows.size());
  int64_t width = 0, steps = 0;
  for (const Row& row : rows) {
    width = std::max(width, static_cast<int64_t>(row.prompt_ids.size()));
    steps = std::max(steps, row.limit);
    totals.prompt_tokens += static_cast<int64_t>(row.prompt_ids.size());
  }
  // The last token chosen is never fed back.
  const std::unique_ptr<Cache> cache = model_.model->make_cache(count, width + std::max<int64_t>(steps, 1) - 1);
  Batch batch = prompt_batch(rows, width);
  const at::Tensor chosen = at::zeros({count, 1}, at::kLong);
  const at::Tensor next = device_.is_cpu() ? chosen : at::zeros({count, 1}, at::TensorOptions().dtype(at::kLong).device(device_));
  auto* chosen_ids = chosen.mutable_data_ptr<int64_t>();

  for (int64_t step = 0; step < steps; ++step) {
    if (is_cancelled()) return false;
    const auto start = Clock::now();
    at::Tensor hidden = forward_hidden(*model_.model, batch, cache.get());
    hidden = hidden.narrow(1, hidden.size(1) - 1, 1);
    at::Tensor logits = model_.model->logits(hidden).reshape({count, -1}).to(at::kCPU, at::kFloat).contiguous();
    auto* values = logits.mutable_data_ptr<float>();
    const auto vocab = static_cast<size_t>(logits.size(1));
    bool is_done = true;
    int64_t taken = 0;
    for (int64_t i = 0; i < count; ++i) {
      Row& row = rows[static_cast<size_t>(i)];
      if (row.is_finished()) continue;
      const bool is_short = static_cast<int64_t>(row.output.ids.size()) < request_.min_new_tokens;
      const int64_t id = with_context(concat("prompt ", row.prompt, ", token ", row.output.ids.size()), [&] {
        return row.sampler.choose(std::span(values + static_cast<size_t>(i) * vocab, vocab),
                                  is_short ? std::span<const int64_t>(eos_) : std::span<const int64_t>());
      });
      chosen_ids[i] = id;
      take(row, id);
      ++taken;
      is_done &= row.is_finished();
    }
    (step == 0 ? totals.prefill_seconds : totals.decode_seconds) += seconds_since(start);
    if (step > 0) ++totals.decode_steps, totals.decoded_tokens += taken;
    if (is_done) break;
    if (step == 0) batch = Batch{.ids = next, .segments = {}, .positions = {}, .media = {}};
    if (!device_.is_cpu()) next.copy_(chosen);
  }
  return true;
}

void warn_about(const GenerateSection& settings) {
  const GenerateSection plain;
  if (!settings.do_sample && (settings.temperature != plain.temperature || settings.top_k != plain.top_k || settings.top_p != plain.top_p ||
                              settings.min_p != plain.min_p))
    log_warn("generate: temperature, top_k, top_p and min_p have no effect while do_sample is false");
}

std::vector<std::vector<int64_t>> check_prompts(const LoadedModel& model, const GenerateRequest& request) {
  auto prompts = request.prompts;
  const int64_t context = model.model->blueprint().context_length;
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].empty()) {
      const auto bos = model.text ? model.text->bos() : std::nullopt;
      if (!bos) fail(ErrorCode::Data, "prompt ", i, " is empty and the tokenizer has no BOS token to start from: give it a word");
      prompts[i].push_back(*bos);
    }
    const auto tokens = static_cast<int64_t>(prompts[i].size());
    if (context > 0 && tokens >= context)
      fail(ErrorCode::Data, "prompt ", i, " has ", tokens, " tokens, the model's context holds ", context, ": shorten it");
  }
  return prompts;
}

}  // namespace

Generation generate(LoadedModel& model, const GenerateRequest& request) {
  // Not inference mode: an architecture may keep tables between calls that training uses later.
  const c10::NoGradGuard no_grad;
  model.set_training(false);
  const auto prompts = check_prompts(model, request);
  warn_about(request.settings);
  Generation generation;
  const Run run(model, request);
  const size_t batch_size = std::max<size_t>(1, request.batch_size);
  bool goes_on = true;
  int64_t shortened = 0;
  for (size_t first = 0; first < prompts.size(); first += batch_size) {
    auto rows = run.rows(prompts, first, std::min(prompts.size(), first + batch_size));
    if (goes_on) goes_on = run.decode(rows, generation);
    for (auto& row : rows) {
      if (!row.is_finished()) row.output.finish_reason = "cancelled";
      shortened += row.output.finish_reason == "length" && row.limit < request.settings.max_new_tokens;
      generation.outputs.push_back(std::move(row.output));
    }
  }
  if (shortened > 0)
    log_warn(concat("generate: ", shortened, " of ", prompts.size(), " texts end before max_new_tokens = ", request.settings.max_new_tokens,
                    ", because the model's context holds ", model.model->blueprint().context_length, " tokens"));
  return generation;
}

}  // namespace tenon::host
