#include "model/calibrate.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>

#include <algorithm>
#include <list>
#include <map>
#include <utility>

#include "base/interrupt.h"
#include "base/json.h"
#include "base/log.h"
#include "base/seconds.h"
#include "base/text.h"
#include "model/calibration_data.h"
#include "model/calibration_store.h"
#include "model/dense_filler.h"
#include "model/paused_run.h"
#include "model/quantized_filler.h"
#include "plugins/breadcrumb.h"

namespace tenon::host {

namespace {

constexpr int64_t kTokensAtOnce = 2048;                   // of a forward pass: enough for fast products, few enough to stay small
constexpr int64_t kRememberedBytes = int64_t{512} << 20;  // of outputs of finished slots of the block at work
constexpr double kLeastShare = 0.005;                     // of the texts' tokens; modules that saw fewer are rounded without calibration

// Thrown by an observing filler when the stage has seen all it needs of a batch: the rest of the block need not run.
struct StageDone {};

// What one input group of a stage saw.
struct Watch {
  std::unique_ptr<Observer> observer;
  std::string quantizer;
  int64_t tokens = 0;
  bool seen = false;  // in the batch at work
};

struct Stage {
  std::vector<Slot*> slots;
  std::map<std::string, Watch> watches;  // by quantizer and input group
  std::map<const Slot*, Watch*> watch_of;
  bool done = false;          // with the batch at work
  bool is_over = false;       // with all of them: the slots are on their way to being quantized
  PausedRun* pass = nullptr;  // of the batch at work; null: the block is run once more behind this stage

  bool all_seen() const {
    return std::all_of(watches.begin(), watches.end(), [](const auto& w) { return w.second.seen; });
  }
};

class ObservingFiller final : public Filler {
 public:
  // Of an input group the first slot observes for all.
  ObservingFiller(const Slot& slot, std::shared_ptr<Filler> base, Watch* watch, Stage& stage)
      : slot_(slot), spec_(slot.spec()), base_(std::move(base)), watch_(watch), stage_(stage) {}
  std::string describe() const override { return "observed " + base_->describe(); }
  at::Tensor linear(const at::Tensor& x) override {
    if (stage_.is_over) return slot_.filler().linear(x);  // called in a pass that paused before
    if (watch_) {
      const at::Tensor flat = x.reshape({-1, spec_.in});
      call_plugin(watch_->quantizer, "observe", spec_.path, [&] { watch_->observer->observe(flat); });
      watch_->tokens += flat.size(0);
      watch_->seen = true;
      if (stage_.all_seen()) {
        if (stage_.pass) {
          stage_.pass->pause();
          return slot_.filler().linear(x);  // quantized meanwhile
        }
        stage_.done = true;
        throw StageDone{};
      }
    }
    return base_->linear(x);
  }
  at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const override { return base_->dense_rows(dtype, first, last); }
  at::Tensor bias() const override { return base_->bias(); }

 private:
  const Slot& slot_;
  const SlotSpec& spec_;
  std::shared_ptr<Filler> base_;
  Watch* watch_;
  Stage& stage_;
};

// One batch on its way through a block, stopping at each stage.
struct Pass {
  Pass(Model& model, int stack, int64_t block, const State& from)
      : state(from), run([&model, stack, block, this] { model.run_block(stack, block, state); }) {
    state.hidden = state.hidden.clone();
  }
  State state;
  PausedRun run;
};

// Remembers what a quantized slot makes of each batch: the block runs once for every stage and once more, and only later slots have changed since.
class RememberingFiller final : public Filler {
 public:
  RememberingFiller(std::shared_ptr<Filler> base, const size_t& batch) : base_(std::move(base)), batch_(batch) {}
  std::string describe() const override { return base_->describe(); }
  at::Tensor linear(const at::Tensor& x) override {
    if (is_repeated_) return base_->linear(x);
    if (outputs_.size() <= batch_) outputs_.resize(batch_ + 1), runs_.resize(batch_ + 1);
    if (std::exchange(runs_[batch_], char{1})) {  // twice in one run of the block: each call has an input of its own
      is_repeated_ = true;
      outputs_.clear();
      return base_->linear(x);
    }
    if (!outputs_[batch_].defined()) outputs_[batch_] = base_->linear(x);
    return outputs_[batch_].clone();  // the block may write to it
  }
  at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const override { return base_->dense_rows(dtype, first, last); }
  at::Tensor bias() const override { return base_->bias(); }
  const std::shared_ptr<Filler>& base() const { return base_; }
  void begin_run() { runs_.assign(runs_.size(), 0); }

 private:
  std::shared_ptr<Filler> base_;
  const size_t& batch_;
  std::vector<at::Tensor> outputs_;
  std::vector<char> runs_;  // 1: the batch has come by in this run
  bool is_repeated_ = false;
};

int64_t remembered_bytes(const SlotSpec& slot, int64_t tokens, at::ScalarType compute) {
  return tokens * slot.out * static_cast<int64_t>(c10::elementSize(compute));
}

int64_t hidden_bytes(const Blueprint& blueprint, int64_t tokens, const Precision& precision) {
  return tokens * blueprint.hidden_size * static_cast<int64_t>(c10::elementSize(precision.residual));
}

class Calibrating {
 public:
  explicit Calibrating(const CalibrationRequest& request)
      : request_(request), parts_(request.fill.parts), store_(request.folder), start_(Clock::now()) {}

  CalibrationReport run() {
    at::NoGradGuard no_grad;
    begin();
    const auto& stacks = parts_.blueprint().stacks;
    for (size_t s = 0; s < stacks.size(); ++s)
      for (int64_t i = 0; i < stacks[s].count; ++i) {
        const std::vector<Slot*> slots = slots_of(static_cast<int>(s), i);
        if (!slots.empty()) block(slots, static_cast<int>(s), i, concat(stacks[s].path, ".", i));
        if (slots_left_ == 0) {
          forget();
          break;
        }
        begin_runs();
        for (batch_ = 0; batch_ < states_.size(); ++batch_) {
          throw_if_interrupted();
          if (auto& pass = passes_[batch_]) {
            if (!pass->run.resume()) fail(ErrorCode::Internal, "a block paused behind its last stage");
            states_[batch_] = std::move(pass->state);
            pass.reset();
          } else {
            request_.model.run_block(static_cast<int>(s), i, states_[batch_]);
          }
        }
        forget();
      }
    if (slots_left_ > 0) block(slots_of(-1, -1), -1, -1, "after_blocks");
    fill_tied(parts_);
    report_.seconds = seconds();
    warn_of_rounded();
    return std::move(report_);
  }

 private:
  double seconds() const { return seconds_since(start_); }

  // The hidden states of all samples, in front of the first block.
  void begin() {
    const Blueprint& blueprint = parts_.blueprint();
    const int64_t length = calibration_length(request_.section, blueprint.context_length);
    const at::Tensor windows = calibration_windows(request_.section, length, blueprint.vocab_size, request_.text);
    report_.tokens = windows.numel();
    slots_left_ = request_.slots.size();
    std::set<std::pair<int, int64_t>> blocks;
    for (const auto& slot : blueprint.slots)
      if (request_.slots.count(slot.path)) blocks.emplace(slot.stack, slot.block);
    blocks_total_ = static_cast<int64_t>(blocks.size());
    log_info(concat("calibrating ", request_.slots.size(), " modules on ", windows.size(0), " windows of ", length, " tokens"));
    store_.identify(request_.recipe, windows, request_.fill.random ? nullptr : request_.fill.checkpoint);
    const int64_t rows = std::max<int64_t>(1, kTokensAtOnce / length);
    for (int64_t first = 0; first < windows.size(0); first += rows) {
      throw_if_interrupted();
      const at::Tensor ids = windows.narrow(0, first, std::min(rows, windows.size(0) - first)).to(parts_.device(-1, 0));
      states_.push_back(request_.model.begin({.ids = ids}, nullptr));
      share_tables(states_.front(), states_.back());
    }
    passes_.resize(states_.size());
  }

  // Windows of one length have equal positions and rotary tables: kept once.
  static void share_tables(const State& first, State& state) {
    auto share = [](const at::Tensor& a, at::Tensor& b) {
      if (a.defined() && b.defined() && a.sizes() == b.sizes() && at::equal(a, b)) b = a;
    };
    share(first.positions, state.positions);
    for (auto& [kind, tables] : state.rotary)
      if (const auto found = first.rotary.find(kind); found != first.rotary.end())
        share(found->second.cos, tables.cos), share(found->second.sin, tables.sin);
  }

  std::vector<Slot*> slots_of(int stack, int64_t block) const {
    std::vector<Slot*> slots;
    for (const auto& slot : parts_.slots())
      if (const SlotSpec& spec = slot->spec();
          request_.slots.count(spec.path) && (stack < 0 ? spec.stack < 0 : spec.stack == stack && spec.block == block))
        slots.push_back(slot.get());
    return slots;
  }

  const ActiveQuantizer& quantizer_of(const Slot& slot) const {
    const PlannedModule* module = request_.fill.plan.find(slot.spec().path);
    for (const auto& active : request_.fill.quantizers)
      if (module && active.quantizer.get() == module->quantizer) return active;
    fail(ErrorCode::Internal, "the plan has no quantizer for '", slot.spec().path, "'");
  }

  void block(const std::vector<Slot*>& slots, int stack, int64_t i, const std::string& name) {
    slots_left_ -= slots.size();
    const bool kept = take_over(slots, name);
    if (!kept) {
      std::set<std::string> paths;
      for (const Slot* slot : slots) paths.insert(slot->spec().path);
      FillRequest dense = request_.fill;
      dense.deferred = nullptr, dense.only_dense = &paths;
      fill_model(dense);
      const size_t first_module = report_.modules.size();
      int64_t room = kRememberedBytes;
      const auto stages = stages_of(slots);
      const bool pausing = stack >= 0 && can_pause(stages);
      for (const auto& stage : stages) {
        quantize(stage, stack, i, pausing);
        if (stack >= 0 && !pausing) remember(stage, room);
      }
      keep(slots, name, first_module);
    }
    ++blocks_done_;
    const double left = seconds() / static_cast<double>(blocks_done_) * static_cast<double>(blocks_total_ - blocks_done_);
    log_info(concat(kept ? "taken over: " : "calibrated ", name, " (", blocks_done_, " of ", blocks_total_, ")",
                    blocks_done_ < blocks_total_ ? ", " + human_seconds(left) + " left" : ""));
  }

  // In the order in which the block runs; a quantizer that does not care about it has all its slots in one.
  std::vector<std::vector<Slot*>> stages_of(const std::vector<Slot*>& slots) const {
    std::map<int, std::vector<Slot*>> stages;
    for (Slot* slot : slots) stages[quantizer_of(*slot).quantizer->facts().calibrates_by_stage ? slot->spec().stage : 0].push_back(slot);
    std::vector<std::vector<Slot*>> ordered;
    for (auto& [order, members] : stages) ordered.push_back(std::move(members));
    return ordered;
  }

  std::string group_of(const Slot& slot) const {
    const SlotSpec& spec = slot.spec();
    return concat(&quantizer_of(slot) - request_.fill.quantizers.data(), "/", spec.input_group.empty() ? spec.path : spec.input_group);
  }

  // Whether the block needs to run once alone: each stage waits in front of one input, and what all batches hold there has room.
  bool can_pause(const std::vector<std::vector<Slot*>>& stages) const {
    int64_t bytes = hidden_bytes(parts_.blueprint(), report_.tokens, parts_.precision());
    for (const auto& stage : stages)
      for (const Slot* slot : stage) {
        if (group_of(*slot) != group_of(*stage.front())) return false;
        bytes += remembered_bytes(slot->spec(), report_.tokens, parts_.precision().compute);
      }
    return bytes <= kRememberedBytes;
  }

  void quantize(const std::vector<Slot*>& slots, int stack, int64_t i, bool pausing) {
    Stage& stage = stages_.emplace_back();
    stage.slots = slots;
    observe(stage, stack, i, pausing);
    for (Slot* slot : slots) {
      throw_if_interrupted();
      const ActiveQuantizer& active = quantizer_of(*slot);
      const SlotSpec& spec = slot->spec();
      const Watch& watch = *stage.watch_of.at(slot);
      const auto* dense = dynamic_cast<const DenseFiller*>(slot->filler_ptr().get());
      if (!dense) fail(ErrorCode::Internal, "'", spec.path, "' was not loaded for calibration");
      const bool starved = static_cast<double>(watch.tokens) < std::max(1.0, kLeastShare * static_cast<double>(report_.tokens));
      Tensors tensors;
      call_plugin(active.section.type, "quantize", spec.path,
                  [&] { tensors = active.quantizer->quantize(spec, dense->weight(), starved ? nullptr : watch.observer.get()); });
      slot->fill(quantized_filler(spec, active, std::move(tensors), dense->bias()));
      report_.modules.push_back({spec.path, watch.tokens, starved});
    }
  }

  // From here to the end of the block, as far as there is room.
  void remember(const std::vector<Slot*>& slots, int64_t& room) {
    for (Slot* slot : slots) {
      room -= remembered_bytes(slot->spec(), report_.tokens, parts_.precision().compute);
      if (room < 0) return;
      remembered_.push_back({slot, std::make_shared<RememberingFiller>(slot->filler_ptr(), batch_)});
      slot->fill(remembered_.back().second);
    }
  }
  void begin_runs() {
    for (auto& [slot, filler] : remembered_) filler->begin_run();
  }
  void forget() {
    for (auto& [slot, filler] : remembered_) slot->fill(filler->base());
    remembered_.clear();
    for (auto& pass : passes_) pass.reset();
    retired_.clear();
    stages_.clear();
  }

  // Runs the block on all samples; afterwards its slots hold their plain fillers again.
  void observe(Stage& stage, int stack, int64_t i, bool pausing) {
    std::vector<std::shared_ptr<Filler>> plain;
    for (Slot* slot : stage.slots) {
      const ActiveQuantizer& active = quantizer_of(*slot);
      const SlotSpec& spec = slot->spec();
      prepare(*slot, active);
      const std::string group = group_of(*slot);
      const bool is_first = stage.watches.count(group) == 0;
      Watch& watch = stage.watches[group];
      if (is_first) {
        watch.quantizer = active.section.type;
        call_plugin(watch.quantizer, "make_observer", spec.path, [&] { watch.observer = active.quantizer->make_observer(spec); });
        if (!watch.observer) fail(ErrorCode::Plugin, "quantizer ", watch.quantizer, " needs calibration and makes no observer");
      }
      stage.watch_of[slot] = &watch;
      plain.push_back(slot->filler_ptr());
      retired_.push_back(std::make_shared<ObservingFiller>(*slot, slot->filler_ptr(), is_first ? &watch : nullptr, stage));
      slot->fill(retired_.back());
    }
    begin_runs();
    for (batch_ = 0; batch_ < states_.size(); ++batch_) {
      throw_if_interrupted();
      for (auto& [group, watch] : stage.watches) watch.seen = false;
      stage.done = false;
      if (pausing) {
        auto& pass = passes_[batch_];
        if (!pass) pass = std::make_unique<Pass>(request_.model, stack, i, states_[batch_]);
        stage.pass = &pass->run;
        if (pass->run.resume()) pass.reset();  // no slot of the stage came by: what was computed behind it is not final
        continue;
      }
      State copy = states_[batch_];
      copy.hidden = copy.hidden.clone();
      try {
        if (stack >= 0)
          request_.model.run_block(stack, i, copy);
        else
          request_.model.logits(request_.model.finish(copy));
      } catch (...) {
        if (!stage.done) throw;  // what a plugin between here and the filler made of StageDone does not matter
      }
    }
    stage.is_over = true;
    for (size_t k = 0; k < stage.slots.size(); ++k) stage.slots[k]->fill(plain[k]);
  }

  // Adapters that start from the rounding error change the weight before it is quantized.
  void prepare(Slot& slot, const ActiveQuantizer& active) {
    const SlotSpec& spec = slot.spec();
    for (const auto& loaded : request_.fill.adapters) {
      if (!loaded.adapter->wants_weight()) continue;
      const auto targets = loaded.adapter->targets(parts_.blueprint());
      if (std::find(targets.begin(), targets.end(), spec.path) == targets.end()) continue;
      const auto* dense = dynamic_cast<const DenseFiller*>(slot.filler_ptr().get());
      const RoundTrip round_trip = [&](const at::Tensor& w) {
        return active.quantizer->dequantize(spec, active.quantizer->quantize(spec, w, nullptr), at::kFloat);
      };
      at::Tensor changed;
      call_plugin(loaded.type, "prepare", spec.path, [&] {
        changed = loaded.adapter->prepare(spec, dense->weight().to(at::kFloat), round_trip).to(dense->weight().scalar_type());
      });
      slot.fill(std::make_shared<DenseFiller>(changed.contiguous(), dense->bias()));
    }
  }

  bool take_over(const std::vector<Slot*>& slots, const std::string& name) {
    const auto found = store_.read(name);
    if (!found) return false;
    for (Slot* slot : slots)
      if (found->count(slot->spec().path) == 0) return false;
    for (Slot* slot : slots) {
      const KeptSlot& kept = found->at(slot->spec().path);
      Tensors tensors;
      const at::Device device(request_.fill.plan.find(slot->spec().path)->device);
      for (const auto& tensor : kept.tensors) tensors.push_back(tensor.to(device));
      slot->fill(quantized_filler(slot->spec(), quantizer_of(*slot), std::move(tensors),
                                  kept.bias.defined() ? kept.bias.to(device) : at::Tensor()));
    }
    ++report_.blocks_kept;
    return true;
  }

  void keep(const std::vector<Slot*>& slots, const std::string& name, size_t first_module) {
    std::map<std::string, KeptSlot> kept;
    for (const Slot* slot : slots) {
      const auto* remembering = dynamic_cast<const RememberingFiller*>(slot->filler_ptr().get());
      const auto& filler = dynamic_cast<const QuantizedFiller&>(remembering ? *remembering->base() : *slot->filler_ptr());
      kept[slot->spec().path] = {filler.tensors(), filler.bias()};
    }
    Value modules = Value::list();
    for (size_t m = first_module; m < report_.modules.size(); ++m) {
      Value row = Value::table();
      row.set("path", report_.modules[m].path), row.set("tokens", report_.modules[m].tokens),
          row.set("rounded", report_.modules[m].rounded);
      modules.as_list().push_back(row);
    }
    store_.write(name, kept, modules);
  }

  void warn_of_rounded() const {
    std::vector<std::string> names;
    for (const auto& module : report_.modules)
      if (module.rounded) names.push_back(concat(module.path, " (", module.tokens, ")"));
    if (!names.empty())
      log_warn(concat(names.size(), " modules saw too few of the ", report_.tokens,
                      " calibration tokens and were rounded to nearest, with the tokens that each saw: ", join(names, ", ")));
  }

  const CalibrationRequest& request_;
  ModelParts& parts_;
  CalibrationStore store_;
  Clock::time_point start_;
  std::vector<State> states_;
  std::vector<std::pair<Slot*, std::shared_ptr<RememberingFiller>>> remembered_;
  // Of the block at work. A pass holds on to fillers that its slots no longer have, and they to their stages.
  std::list<Stage> stages_;
  std::vector<std::shared_ptr<Filler>> retired_;
  std::vector<std::unique_ptr<Pass>> passes_;  // by batch; null: none has paused
  size_t batch_ = 0;                           // at work
  size_t slots_left_ = 0;
  int64_t blocks_done_ = 0, blocks_total_ = 0;
  CalibrationReport report_;
};

}  // namespace

std::set<std::string> calibrated_slots(const Blueprint& blueprint, const Plan& plan, const std::vector<ActiveQuantizer>& quantizers) {
  std::set<std::string> paths;
  for (const auto& slot : blueprint.slots) {
    const PlannedModule* module = plan.find(slot.path);
    if (!module || !module->quantizer || slot.kind != SlotKind::Linear || slot.count != 1) continue;
    if (slot.stack < 0 && slot.role != SlotRole::OutputHead) continue;
    for (const auto& active : quantizers)
      if (active.quantizer.get() == module->quantizer && !active.from_checkpoint && active.quantizer->facts().needs_calibration)
        paths.insert(slot.path);
  }
  return paths;
}

CalibrationReport calibrate(const CalibrationRequest& request) { return Calibrating(request).run(); }

int64_t calibration_bytes(const Blueprint& blueprint, const Plan& plan, const std::set<std::string>& slots,
                          const CalibrationSection& section, const Precision& precision) {
  const int64_t length = calibration_length(section, blueprint.context_length);
  const auto element = static_cast<int64_t>(c10::elementSize(precision.compute));
  // All samples, and the block's output beside its input while it runs.
  const int64_t batch = std::max(length, kTokensAtOnce);
  int64_t bytes =
      (section.samples * length + 2 * batch) * blueprint.hidden_size * static_cast<int64_t>(c10::elementSize(precision.residual));
  int64_t work = 0;
  for (const ActivationCost& cost : blueprint.block_activations)
    work =
        std::max(work, static_cast<int64_t>(static_cast<double>(batch) * (cost.compute * static_cast<double>(element) + cost.float32 * 4 +
                                                                          cost.scores * static_cast<double>(length * element))));
  std::map<std::pair<int, int64_t>, std::pair<int64_t, std::map<std::string, int64_t>>> blocks;
  std::map<std::pair<int, int64_t>, int64_t> remembered;
  for (const auto& slot : blueprint.slots) {
    if (slots.count(slot.path) == 0) continue;
    auto& [dense, observers] = blocks[{slot.stack, slot.block}];
    dense += slot.numel() * static_cast<int64_t>(c10::elementSize(slot.dtype));
    if (slot.stack >= 0) remembered[{slot.stack, slot.block}] += remembered_bytes(slot, section.samples * length, precision.compute);
    int64_t& group = observers[slot.input_group.empty() ? slot.path : slot.input_group];
    group = std::max(group, plan.find(slot.path)->quantizer->calibration_bytes(slot));
  }
  int64_t largest = 0;
  for (const auto& [place, block] : blocks) {
    // Outputs remembered, or the states of passes that have paused.
    const int64_t kept = remembered[place] + hidden_bytes(blueprint, section.samples * length, precision);
    int64_t sum = block.first + std::min(kRememberedBytes, kept);
    for (const auto& [group, size] : block.second) sum += size;
    largest = std::max(largest, sum);
  }
  return bytes + work + largest;
}

}  // namespace tenon::host
