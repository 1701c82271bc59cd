#include "cli/quantizer_report.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/interrupt.h"
#include "base/log.h"
#include "base/seconds.h"
#include "base/text.h"
#include "data/batches.h"
#include "generate/generator.h"
#include "model/forward.h"
#include "model/load.h"

namespace tenon::host {

namespace {

constexpr int64_t kPanelRows = 64;  // of logits in float64 at a time

struct Loaded {
  std::unique_ptr<LoadedModel> model;
  double seconds = 0;
};

Loaded load(const Recipe& recipe, Registry& registry, bool want_text) {
  const auto start = Clock::now();
  Loaded loaded{load_model({.recipe = &recipe, .registry = &registry, .want_text = want_text})};
  loaded.seconds = seconds_since(start);
  return loaded;
}

// Which hidden states predict a label, as training and `host eval` choose them.
struct Places {
  std::vector<int64_t> hidden, targets;
};
Places places_of(const TrainBatch& batch) {
  Places places;
  const at::Tensor labels = batch.labels.contiguous();
  const int64_t width = labels.size(1), *label = labels.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < labels.size(0); ++row)
    for (int64_t t = 1; t < width; ++t)
      if (label[row * width + t] != kIgnore) places.hidden.push_back(row * width + t - 1), places.targets.push_back(label[row * width + t]);
  return places;
}

at::Tensor chosen_hidden(LoadedModel& model, const TrainBatch& batch, const Places& places) {
  const at::Device device = model.parts->device(-1, 0);
  Batch input = batch.input;
  input.ids = input.ids.to(device);
  if (input.segments.defined()) input.segments = input.segments.to(device);
  const at::Tensor hidden = forward_hidden(*model.model, input);
  return hidden.reshape({-1, hidden.size(-1)}).index_select(0, at::tensor(places.hidden, at::kLong).to(hidden.device()));
}

at::Tensor logprobs(LoadedModel& model, const at::Tensor& hidden) {
  return at::log_softmax(model.model->logits(hidden).to(at::kCPU, at::kDouble), -1);
}

struct Sums {
  double nll = 0, kl = 0, same = 0, tokens = 0;
};

// `reference` may be the model itself.
Sums compare(LoadedModel& reference, LoadedModel& model, const Dataset& set) {
  at::NoGradGuard no_grad;
  Sums sums;
  Progress progress("comparing", static_cast<int64_t>(set.rows.size()), false);
  for (size_t row = 0; row < set.rows.size(); ++row) {
    throw_if_interrupted();
    const int64_t index = static_cast<int64_t>(row);
    const TrainBatch batch = make_batch(set, {&index, 1});
    const Places places = places_of(batch);
    progress.add(1);
    if (places.hidden.empty()) continue;
    const at::Tensor theirs = chosen_hidden(reference, batch, places),
                     ours = &reference == &model ? theirs : chosen_hidden(model, batch, places);
    const at::Tensor targets = at::tensor(places.targets, at::kLong);
    for (int64_t first = 0; first < targets.numel(); first += kPanelRows) {
      const int64_t rows = std::min(kPanelRows, targets.numel() - first);
      const at::Tensor p = logprobs(reference, theirs.narrow(0, first, rows)),
                       q = &reference == &model ? p : logprobs(model, ours.narrow(0, first, rows));
      sums.nll -= q.gather(1, targets.narrow(0, first, rows).unsqueeze(1)).sum().item<double>();
      sums.kl += (p.exp() * (p - q)).sum().item<double>();
      sums.same += (p.argmax(-1) == q.argmax(-1)).sum().item<double>();
    }
    sums.tokens += static_cast<double>(targets.numel());
  }
  progress.finish();
  return sums;
}

// Batch 1, the steps after the first: prefill and warm-up are not in it.
double decode_speed(LoadedModel& model, const Dataset& set) {
  constexpr int64_t kPrompt = 32;
  GenerateRequest request;
  request.prompts = {{}};
  for (const Sample& sample : set.samples)
    for (const int64_t id : sample.ids)
      if (static_cast<int64_t>(request.prompts[0].size()) < kPrompt) request.prompts[0].push_back(id);
  request.settings = {};
  request.settings.max_new_tokens = request.min_new_tokens = 4;
  generate(model, request);
  request.settings.max_new_tokens = request.min_new_tokens = 48;
  const Generation g = generate(model, request);
  return g.decode_seconds > 0 ? static_cast<double>(g.decode_steps) / g.decode_seconds : 0;
}

// Of the weights that are quantized; of all slots where none is.
double bits_per_weight(const LoadedModel& model) {
  double bytes = 0, count = 0;
  const bool any = model.plan.parameters_quantized > 0;
  for (const auto& module : model.plan.modules) {
    if (any != (module.quantizer != nullptr)) continue;
    const SlotSpec* slot = model.parts->blueprint().find_slot(module.path);
    if (!slot || !slot->tied_to.empty()) continue;
    bytes += static_cast<double>(module.bytes);
    count += static_cast<double>(slot->numel() + (slot->bias ? slot->out : 0));
  }
  return count > 0 ? bytes * 8 / count : 0;
}

Recipe with_quantizer(const Recipe& recipe, const std::string& name) {
  Recipe changed = recipe;
  changed.train.reset();
  changed.export_.reset();
  changed.adapters.clear();
  if (name.empty()) {
    changed.quantizers.clear();
    return changed;
  }
  if (changed.quantizers.empty()) changed.quantizers.emplace_back();
  for (auto& section : changed.quantizers)
    if (section.type != name) {
      section.type = name;
      section.options = Value::table();
    }
  return changed;
}

}  // namespace

QuantizerReport report_quantizer(const Recipe& recipe, Registry& registry, const std::vector<std::string>& candidates,
                                 const std::string& baseline) {
  if (!recipe.data || recipe.data->eval.empty()) fail(ErrorCode::Recipe, "there is nothing to compare on: name files in data.eval");
  const Recipe full_recipe = with_quantizer(recipe, "");
  Loaded full = load(full_recipe, registry, needs_text(*recipe.data, true));
  DatasetRequest request;
  request.data = &*recipe.data;
  request.is_eval = true;
  request.text = full.model->text.get();
  request.end_ids = full.model->eos_ids();
  request.vocab_size = full.model->model->blueprint().vocab_size;
  request.media = full.model->media;
  request.media_folder = recipe.media.folder;
  const Dataset set = build_dataset(request);
  for (const auto& warning : set.warnings) log_warn(warning);

  QuantizerReport report;
  auto add = [&](std::string name, Loaded& loaded) {
    const Sums sums = compare(*full.model, *loaded.model, set);
    const double tokens = std::max(sums.tokens, 1.0);
    report.tokens = static_cast<int64_t>(sums.tokens);
    report.rows.push_back({.name = std::move(name),
                           .perplexity = std::exp(sums.nll / tokens),
                           .kl_divergence = sums.kl / tokens,
                           .top1 = sums.same / tokens,
                           .bits_per_weight = bits_per_weight(*loaded.model),
                           .weight_bytes = loaded.model->plan.totals.weights,
                           .load_seconds = loaded.seconds,
                           .tokens_per_second = decode_speed(*loaded.model, set)});
  };
  std::string dense = "full";
  for (const auto& module : full.model->plan.modules)
    if (full.model->parts->blueprint().find_slot(module.path) && module.filler != "tied") dense = module.filler;
  add(dense, full);
  std::vector<std::string> names = candidates;
  if (!baseline.empty() && std::find(names.begin(), names.end(), baseline) == names.end()) names.push_back(baseline);
  for (const std::string& name : names) {
    log_info("quantizer " + name);
    const Recipe changed = with_quantizer(recipe, name);
    Loaded loaded = load(changed, registry, false);
    add(name, loaded);
  }
  return report;
}

std::string to_text(const QuantizerReport& report) {
  size_t width = 10;
  for (const auto& row : report.rows) width = std::max(width, row.name.size());
  std::string text = fmt::format("{:{}}  {:>10}  {:>10}  {:>6}  {:>11}  {:>10}  {:>7}  {:>8}\n", "quantizer", width, "perplexity", "KL",
                                 "top-1", "bits/weight", "weights", "load s", "token/s");
  for (const auto& row : report.rows)
    text += fmt::format("{:{}}  {:>10.4f}  {:>10.6f}  {:>5.1f}%  {:>11.3f}  {:>10}  {:>7.2f}  {:>8.1f}\n", row.name, width, row.perplexity,
                        row.kl_divergence, 100 * row.top1, row.bits_per_weight, human_bytes(row.weight_bytes), row.load_seconds,
                        row.tokens_per_second);
  return text +
         fmt::format("over {} predicted tokens; KL divergence to the first row in nats, top-1: agreement with it; decode of one sequence\n",
                     report.tokens);
}

Value to_value(const QuantizerReport& report) {
  Value rows = Value::list();
  for (const auto& row : report.rows) {
    Value out = Value::table();
    out.set("name", row.name), out.set("perplexity", row.perplexity), out.set("kl_divergence", row.kl_divergence);
    out.set("top1_agreement", row.top1), out.set("bits_per_weight", row.bits_per_weight), out.set("weight_bytes", row.weight_bytes);
    out.set("load_seconds", row.load_seconds), out.set("decode_tokens_per_second", row.tokens_per_second);
    rows.as_list().push_back(std::move(out));
  }
  Value value = Value::table();
  value.set("tokens", report.tokens), value.set("rows", std::move(rows));
  return value;
}

}  // namespace tenon::host
