#include "tenon/session.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <optional>

#include "base/interrupt.h"
#include "base/log.h"
#include "base/text.h"
#include "data/dataset.h"
#include "export/export.h"
#include "export/verify.h"
#include "generate/generator.h"
#include "generate/prompts.h"
#include "model/devices.h"
#include "model/forward.h"
#include "session/workspace.h"
#include "train/evaluate.h"
#include "train/resume.h"
#include "train/trainer.h"

namespace tenon {

using namespace host;

struct Session::Impl {
  SessionOptions options;
  Workspace work;

  Impl(const std::filesystem::path& recipe, SessionOptions o) : options(std::move(o)), work(recipe, options) {}

  std::unique_ptr<LoadedModel> planned() {
    LoadRequest request{.recipe = &work.recipe, .registry = work.registry.get(), .for_training = work.recipe.train.has_value()};
    if (!options.assume_devices.empty()) request.assumed_devices = parse_devices(options.assume_devices);
    return plan_model(request);
  }

  Generation generate(LoadedModel& model, const std::vector<Prompt>& prompts, const std::function<void(const TextPiece&)>& on_piece) {
    GenerateRequest request{.settings = work.recipe.generate};
    for (const Prompt& prompt : prompts) request.prompts.push_back(prompt.ids), request.media.push_back(prompt.media);
    if (on_piece) request.on_piece = [&](size_t prompt, std::string_view piece) { on_piece({prompt, piece}); };
    return tenon::host::generate(model, request);
  }

  static std::vector<Prompt> encode(const LoadedModel& model, const std::vector<Value>& prompts, bool add_generation_prompt = true) {
    std::vector<Prompt> encoded;
    for (size_t i = 0; i < prompts.size(); ++i)
      encoded.push_back(
          with_context(concat("prompt ", i), [&] { return read_prompt(*model.text, model.media, prompts[i], add_generation_prompt); }));
    return encoded;
  }

  // A plain text becomes a user's message where the model talks in turns.
  static Value as_prompt(const LoadedModel& model, const std::string& text) {
    if (!model.text->has_chat_template()) return text;
    Value message = Value::table();
    message.set("role", "user"), message.set("content", text);
    return Value(Value::List{message});
  }

  // The recipe's own prompts, shown while they are written.
  Value show_prompts(LoadedModel& model, const std::string& when) {
    Value shown = Value::list();
    for (const std::string& text : work.recipe.generate.prompts) {
      const Generation g = generate(model, encode(model, {as_prompt(model, text)}), nullptr);
      log_info(concat(when, "\n  > ", text, "\n  ", g.outputs[0].text, "\n"));
      Value row = Value::table();
      row.set("when", when), row.set("prompt", text), row.set("text", g.outputs[0].text);
      shown.as_list().push_back(row);
    }
    return shown;
  }

  Value export_model(LoadedModel& model, const std::filesystem::path& folder, const std::string& format, bool merge, bool verify);
  Value run(bool resume);
  Value train(LoadedModel& model, bool resume);
  bool needs_text(bool is_eval) const { return work.recipe.data && tenon::host::needs_text(*work.recipe.data, is_eval); }
};

Session::Session(const std::filesystem::path& recipe, SessionOptions options) {
  if (options.on_log) set_log_sink([sink = options.on_log](LogLevel level, std::string_view line) { sink(static_cast<int>(level), line); });
  impl_ = std::make_unique<Impl>(recipe, std::move(options));
}
Session::~Session() = default;

Value Session::plan() { return impl_->planned()->plan.to_json_value(); }
std::string Session::plan_text() { return impl_->planned()->plan.to_text(); }
void Session::load() { impl_->work.load(/*for_training=*/false, /*want_text=*/false); }
void Session::cancel() { set_interrupted(true); }

at::Tensor Session::logits(const at::Tensor& ids, const std::map<std::string, at::Tensor>& media) {
  LoadedModel& model = impl_->work.load(false, false);
  at::NoGradGuard no_grad;
  // An embedding may have more rows than the head: tokens that are read and never written.
  int64_t vocab = model.parts->blueprint().vocab_size;
  for (const SlotSpec& slot : model.parts->blueprint().slots)
    if (slot.role == SlotRole::InputEmbedding) vocab = std::max(vocab, slot.out);
  if (ids.numel() > 0 && (ids.min().item<int64_t>() < 0 || ids.max().item<int64_t>() >= vocab))
    fail(ErrorCode::Data, "a token id is outside the vocabulary: ids run from ", ids.min().item<int64_t>(), " to ",
         ids.max().item<int64_t>(), ", the model has ", vocab);
  return forward_logits(*model.model, {.ids = ids.to(model.parts->device(-1, 0)), .media = media}).cpu();
}

MessageLogits Session::message_logits(const std::vector<Value>& conversations, bool add_generation_prompt) {
  LoadedModel& model = impl_->work.load(false, true);
  at::NoGradGuard no_grad;
  const std::vector<Prompt> prompts = Impl::encode(model, conversations, add_generation_prompt);
  int64_t width = 0;
  for (const Prompt& prompt : prompts) width = std::max(width, static_cast<int64_t>(prompt.ids.size()));
  if (width == 0) fail(ErrorCode::Data, "there are no tokens in the conversations");
  const auto rows = static_cast<int64_t>(prompts.size());
  MessageLogits out{.logits = {}, .ids = at::zeros({rows, width}, at::kLong), .mask = at::zeros({rows, width}, at::kLong)};
  std::vector<Medium> media;
  for (int64_t r = 0; r < rows; ++r) {
    const Prompt& prompt = prompts[static_cast<size_t>(r)];
    std::copy(prompt.ids.begin(), prompt.ids.end(), out.ids.mutable_data_ptr<int64_t>() + r * width);
    std::fill_n(out.mask.mutable_data_ptr<int64_t>() + r * width, prompt.ids.size(), 1);
    media.insert(media.end(), prompt.media.begin(), prompt.media.end());
  }
  const at::Device device = model.parts->device(-1, 0);
  Batch batch{.ids = out.ids.to(device)};
  if (!out.mask.all().item<bool>()) batch.segments = out.mask.to(device);
  if (!media.empty()) batch.media = model.media.processor->load(media);
  out.logits = forward_logits(*model.model, batch).cpu();
  return out;
}

std::vector<Continuation> Session::generate(const std::vector<Value>& prompts, const std::function<void(const TextPiece&)>& on_piece) {
  LoadedModel& model = impl_->work.load(false, true);
  const auto ids = Impl::encode(model, prompts);
  Generation g = impl_->generate(model, ids, on_piece);
  std::vector<Continuation> out;
  for (size_t i = 0; i < ids.size(); ++i)
    out.push_back({ids[i].ids, std::move(g.outputs[i].ids), std::move(g.outputs[i].text), std::move(g.outputs[i].finish_reason)});
  return out;
}

Value Session::evaluate() {
  const EvalResult r = evaluate_recipe(impl_->work.load(false, impl_->needs_text(true)), impl_->work.recipe);
  Value out = Value::table();
  out.set("loss", r.loss), out.set("perplexity", r.perplexity), out.set("tokens", r.tokens);
  return out;
}

Value Session::Impl::export_model(LoadedModel& model, const std::filesystem::path& folder, const std::string& format, bool merge,
                                  bool verify) {
  const ExportOptions how{.format = format,
                          .to = folder,
                          .merge = merge,
                          .base_model = work.recipe.model.path.string(),
                          .chat_template = work.recipe.text.chat_template,
                          .quantizers_of_format = work.registry->names_with("quantizer", "format", format)};
  // What the model in memory says, asked before it is written.
  auto logits_of = [](LoadedModel& m) {
    return [&m](const TokenIds& ids) {
      at::NoGradGuard no_grad;
      return forward_logits(*m.model, {.ids = at::tensor(ids, at::kLong).unsqueeze(0).to(m.parts->device(-1, 0))})
          .squeeze(0)
          .to(at::kCPU, at::kFloat);
    };
  };
  std::optional<Replay> replay;
  if (verify) {
    std::vector<TokenIds> prompts;
    const int64_t vocab = model.parts->blueprint().vocab_size;
    for (int64_t p = 0; p < 3; ++p) {
      TokenIds ids;
      for (int64_t i = 0; i < 12; ++i) ids.push_back((p * 7919 + i * 104729 + 3) % vocab);
      prompts.push_back(std::move(ids));
    }
    auto greedy = [&](const TokenIds& prompt, int64_t count) {
      GenerateRequest request{.prompts = {prompt}};
      request.settings.max_new_tokens = count;
      return tenon::host::generate(model, request).outputs[0].ids;
    };
    replay = record_replay({greedy, logits_of(model)}, prompts, 16);
  }
  const ExportReport report = tenon::host::export_model(model, how);
  Value out = Value::table();
  out.set("folder", report.folder.string()), out.set("format", report.format), out.set("bytes", report.bytes);
  out.set("files", Value(report.files)), out.set("notes", Value(report.notes));
  for (const auto& note : report.notes) log_info(note);
  log_info(concat("wrote ", report.folder.string(), " (", report.format, ", ", human_bytes(report.bytes), ")"));
  if (replay) {
    Recipe again = work.recipe;
    again.train.reset();
    again.export_.reset();
    if (report.format == "peft") {
      again.adapters[0].path = report.folder;
      again.adapters.resize(1);
    } else {
      again.model.path = report.folder;
      again.model.init = "pretrained";
      again.adapters.clear();
      again.quantizers.clear();
      again.patches.clear();
      again.text.add_tokens.clear();  // the exported tokenizer has them
    }
    auto back = load_model({.recipe = &again, .registry = work.registry.get()});
    const ReplayComparison result = compare_replay(*replay, logits_of(*back), replay_tolerance(model.precision.compute));
    log_info("verification: " + result.to_text());
    out.set("verified", result.same()), out.set("max_difference", result.max_difference);
    if (!result.same()) fail(ErrorCode::Data, "the exported model answers otherwise than the one in memory: ", result.to_text());
  }
  return out;
}

Value Session::export_to(const std::filesystem::path& folder, const std::string& format, bool merge, bool verify) {
  return impl_->export_model(impl_->work.load(false, false), folder, format, merge, verify);
}

Value Session::Impl::train(LoadedModel& model, bool resume) {
  const auto& section = *work.recipe.train;
  std::unique_ptr<Objective> objective = work.registry->objective(section.objective).make(section.objective_options);
  const TrainOutcome outcome = tenon::host::train(
      {.model = &model, .objective = objective.get(), .recipe = &work.recipe, .plugins = work.registry->loaded(), .resume = resume});
  if (outcome.interrupted)
    fail(ErrorCode::Interrupted, "stopped after step ", outcome.steps, " of ", outcome.total_steps, "; what was trained is saved in '",
         work.recipe.output_dir->string(), "', --resume goes on from there");
  Value out = Value::table();
  out.set("steps", outcome.steps), out.set("first_loss", outcome.first_loss), out.set("last_loss", outcome.last_loss);
  out.set("first_eval_loss", Value(outcome.first_eval_loss)), out.set("last_eval_loss", Value(outcome.last_eval_loss)),
      out.set("seconds", outcome.seconds);
  return out;
}

Value Session::Impl::run(bool resume) {
  const Recipe& recipe = work.recipe;
  const bool trains = recipe.train.has_value(), shows = !recipe.generate.prompts.empty();
  if (resume && !trains) fail(ErrorCode::Usage, "--resume goes on with a training, and the recipe has no [train]");
  if (resume && recipe.output_dir) find_resume_point(*recipe.output_dir);  // before anything slow
  LoadedModel& model = work.load(trains, shows || (trains && (needs_text(false) || needs_text(true))));
  Value out = Value::table();
  if (shows && !resume) out.set("before", show_prompts(model, trains ? "before training" : "generated"));
  if (trains) {
    out.set("train", train(model, resume));
    if (shows) out.set("after", show_prompts(model, "after training"));
  }
  if (recipe.export_) {
    std::filesystem::path to = recipe.export_->to;
    if (to.empty()) to = recipe.output_dir ? *recipe.output_dir / "export" : std::filesystem::path("export");
    out.set("export", export_model(model, to, recipe.export_->format, recipe.export_->merge, recipe.export_->verify));
  }
  return out;
}

Value Session::run(bool resume) { return impl_->run(resume); }

}  // namespace tenon
