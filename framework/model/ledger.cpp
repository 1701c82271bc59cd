#include "model/ledger.h"

#include <algorithm>
#include <map>
#include <set>
#include <thread>

#include "base/text.h"
#include "model/calibrate.h"
#include "model/fill.h"
#include "model/placement.h"

namespace tenon::host {

namespace {

constexpr int64_t kFloat32 = 4;
constexpr int64_t kAdamStates = 2;
// What LibTorch's first products and the first backward pass bring along: code pages, compiled kernels, scratch of its libraries. Measured on models
// of 0.3 M to 1.1 B parameters: 50 to 150 MB in training, a tenth of that without.
constexpr int64_t kTrainingRuntime = 100'000'000, kInferenceRuntime = 10'000'000;

// Everything that must share a device: the front, each block, the back.
struct Unit {
  std::string path;
  int64_t weights = 0, adapters = 0, trainable = 0;  // bytes, bytes, elements
  int64_t activations_kept = 0, activations_least = 0;
  int tied_to = -1;
};

struct Sizes {
  int64_t tokens = 0;  // in one micro-batch, or in the cache
  int64_t sequence = 0;
  int64_t element = 0;   // bytes of the compute dtype
  int64_t residual = 0;  // bytes of a hidden state's element
};

class Builder {
 public:
  explicit Builder(const LedgerInputs& in) : in_(in), plan_(ledger_.plan) {}

  Ledger build() {
    make_units();
    list_modules();
    count_adapters();
    count_activations();
    put();
    return std::move(ledger_);
  }

 private:
  void make_units() {
    const auto& b = in_.blueprint;
    units_.push_back({.path = "(before the blocks)"});
    for (const auto& stack : b.stacks) {
      first_unit_.push_back(static_cast<int>(units_.size()));
      for (int64_t i = 0; i < stack.count; ++i) units_.push_back({.path = concat(stack.path, ".", i)});
    }
    units_.push_back({.path = "(after the blocks)"});
    for (const auto& slot : b.slots) {
      if (slot.role == SlotRole::InputEmbedding) units_.front().path = slot.path;
      if (slot.role == SlotRole::OutputHead) units_.back().path = slot.path;
    }
    sizes_.element = static_cast<int64_t>(c10::elementSize(in_.dtypes.precision.compute));
    sizes_.residual = static_cast<int64_t>(c10::elementSize(in_.dtypes.precision.residual));
    const auto& r = in_.recipe;
    if (in_.for_training) {
      sizes_.sequence = r.data ? r.data->max_length : b.context_length;
      sizes_.tokens = sizes_.sequence * (r.train ? r.train->per_device_train_batch_size : 1);
    } else {
      sizes_.sequence = sizes_.tokens = std::min<int64_t>(b.context_length > 0 ? b.context_length : 2048, 2048);
    }
  }

  Unit& unit_of(int stack, int64_t block, SlotRole role) {
    if (stack >= 0) return units_[static_cast<size_t>(first_unit_[static_cast<size_t>(stack)] + block)];
    return role == SlotRole::InputEmbedding ? units_.front() : units_.back();
  }
  size_t index_of(const Unit& unit) const { return static_cast<size_t>(&unit - units_.data()); }

  void list_modules() {
    std::set<std::string> whole;
    for (const auto& loaded : in_.adapters)
      for (auto& path : loaded.adapter->modules_to_save(in_.blueprint)) whole.insert(std::move(path));
    for (const auto& slot : in_.blueprint.slots) {
      Unit& unit = unit_of(slot.stack, slot.block, slot.role);
      PlannedModule module{.path = slot.path, .dtype = dtype_name(slot.dtype), .dense_dtype = slot.dtype};
      const int64_t bias = slot.bias ? slot.out * static_cast<int64_t>(c10::elementSize(slot.dtype)) : 0;
      if (!slot.tied_to.empty()) {
        module.filler = "tied";
        module.reason = "shares the weight of " + slot.tied_to;
        if (const SlotSpec* owner = in_.blueprint.find_slot(slot.tied_to)) {
          Unit& home = unit_of(owner->stack, owner->block, owner->role);
          if (&home != &unit) unit.tied_to = static_cast<int>(index_of(home));
        }
      } else {
        FillerChoice choice = choose_filler(slot, in_.blueprint, in_.quantizers);
        if (choice.quantizer && !choice.quantizer->from_checkpoint && whole.count(slot.path))
          choice = {nullptr, "trained whole by the adapter"};
        module.reason = choice.reason;
        if (choice.quantizer) {
          module.quantizer = choice.quantizer->quantizer.get();
          module.filler = choice.quantizer->section.type;
          for (const TensorSpec& tensor : module.quantizer->resident(slot)) module.bytes += tensor.bytes();
          plan_.parameters_quantized += slot.numel();
        } else {
          module.filler = dtype_name(slot.dtype);
          module.bytes = slot.numel() * static_cast<int64_t>(c10::elementSize(slot.dtype));
          count_trained(unit, module, slot.numel() + (slot.bias ? slot.out : 0), slot.stack, slot.part);
        }
        plan_.parameters_total += slot.numel();
        largest_slot_ = std::max(largest_slot_, slot.out * slot.in);
      }
      plan_.parameters_total += slot.bias ? slot.out : 0;
      module.bytes += bias;
      unit.weights += module.bytes;
      module_unit_.push_back(index_of(unit));
      plan_.modules.push_back(std::move(module));
    }
    for (const auto& tensor : in_.blueprint.tensors) {
      Unit& unit = unit_of(tensor.stack, tensor.block, SlotRole::Inner);
      const TensorSpec spec{tensor.path, tensor.shape, tensor.dtype};
      plan_.modules.push_back({.path = tensor.path,
                               .filler = dtype_name(tensor.dtype),
                               .dtype = dtype_name(tensor.dtype),
                               .bytes = spec.bytes(),
                               .reason = "not a weight matrix",
                               .dense_dtype = tensor.dtype});
      plan_.parameters_total += spec.numel();
      count_trained(unit, plan_.modules.back(), spec.numel(), tensor.stack, tensor.part);
      unit.weights += spec.bytes();
      module_unit_.push_back(index_of(unit));
    }
    for (const auto& active : in_.quantizers) plan_.quantizers.push_back(active.quantizer);
  }

  void count_trained(Unit& unit, PlannedModule& module, int64_t elements, int stack, const std::string& part) {
    if (in_.purpose != Purpose::FullTraining) return;
    if (in_.frozen.count(module.path)) {
      module.reason += "; frozen";
      return;
    }
    unit.trainable += elements;
    if (stack < 0) trained_parts_.insert(part);
  }

  // Of a model with parts, that of a stack's blocks.
  std::string part_of(size_t stack) const {
    for (const auto& slot : in_.blueprint.slots)
      if (slot.stack == static_cast<int>(stack)) return slot.part;
    return "";
  }
  // Whether something trains before the first block of a stack: towers begin with media, the language model with its embeddings and what towers make.
  bool trains_before(size_t stack, bool trains_so_far) const {
    if (const std::string part = part_of(stack); !part.empty()) return trained_parts_.count(part) > 0;
    const bool has_trained_part = std::any_of(trained_parts_.begin(), trained_parts_.end(), [](const auto& p) { return !p.empty(); });
    return trains_so_far || has_trained_part || units_.front().trainable > 0;
  }

  void count_adapters() {
    for (const auto& loaded : in_.adapters) {
      const auto targets = loaded.adapter->targets(in_.blueprint);
      for (const auto& path : targets) {
        const SlotSpec* slot = in_.blueprint.find_slot(path);
        if (!slot) fail(ErrorCode::Internal, "adapter '", loaded.name, "' targets '", path, "', which is no slot");
        Unit& unit = unit_of(slot->stack, slot->block, slot->role);
        for (const TensorSpec& tensor : loaded.adapter->parameters(*slot)) {
          unit.adapters += tensor.bytes();
          plan_.parameters_total += tensor.numel();
          if (in_.for_training) unit.trainable += tensor.numel();
        }
        if (in_.for_training && slot->stack < 0) trained_parts_.insert(slot->part);
        if (in_.for_training)
          unit.activations_kept +=
              static_cast<int64_t>(loaded.adapter->activation_elements(*slot) * static_cast<double>(sizes_.tokens * sizes_.element));
      }
    }
  }

  void count_activations() {
    const auto& b = in_.blueprint;
    if (!in_.for_training) {
      const double per_block = b.cache_elements_per_token / std::max<double>(1, static_cast<double>(units_.size() - 2));
      for (size_t i = 1; i + 1 < units_.size(); ++i)
        units_[i].activations_kept = units_[i].activations_least =
            static_cast<int64_t>(per_block * static_cast<double>(sizes_.tokens * sizes_.element));
      loss_bytes_ = b.vocab_size * kFloat32;
      return;
    }
    const int64_t hidden = sizes_.tokens * b.hidden_size * sizes_.residual;
    bool trained = false;
    for (size_t s = 0; s < b.stacks.size(); ++s) {
      bool trains = trains_before(s, trained);  // here or below: else nothing is kept for a backward pass that never comes
      const ActivationCost cost = s < b.block_activations.size() ? b.block_activations[s] : ActivationCost{};
      const double tokens = static_cast<double>(sizes_.tokens);
      const int64_t bytes = static_cast<int64_t>(tokens * (cost.compute * static_cast<double>(sizes_.element) + cost.float32 * kFloat32 +
                                                           cost.scores * static_cast<double>(sizes_.sequence * sizes_.element)));
      for (int64_t i = 0; i < b.stacks[s].count; ++i) {
        Unit& unit = units_[static_cast<size_t>(first_unit_[s] + i)];
        trains |= unit.trainable > 0;
        if (!trains) continue;
        unit.activations_kept += bytes + hidden;
        unit.activations_least = hidden;
        largest_block_ = std::max(largest_block_, unit.activations_kept);
      }
      trained |= trains;
    }
    // Logits and their gradient, each in the compute dtype and in float32.
    const int64_t at_once = b.loss_chunk_tokens > 0 ? std::min(sizes_.tokens, b.loss_chunk_tokens) : sizes_.tokens;
    const int64_t logit = in_.dtypes.head_in_float32 ? kFloat32 : sizes_.element;
    loss_bytes_ = 2 * at_once * b.vocab_size * (logit + kFloat32) + 2 * sizes_.tokens * b.hidden_size * sizes_.element;
  }

  int64_t state_bytes(const Unit& u) const { return u.weights + u.adapters + u.trainable * kFloat32 * (1 + kAdamStates); }

  void put() {
    const std::string mode = in_.recipe.train ? in_.recipe.train->gradient_checkpointing : "auto";
    // Shared by the units of a device: one dense weight while a product runs, the block at work, and, where the head is, the loss.
    const int64_t dense_scratch = in_.quantizers.empty() ? 0 : largest_slot_ * sizes_.element;
    // A block at work in the backward pass holds its activations and about as many gradients of them.
    const int64_t reserve = dense_scratch + (in_.for_training ? 2 * largest_block_ : 0);
    std::vector<PlacementUnit> rows;
    for (const Unit& u : units_) {
      const bool keep = mode == "false";
      rows.push_back({u.path, state_bytes(u) + (keep ? u.activations_kept : u.activations_least), u.tied_to});
    }
    rows.back().bytes += loss_bytes_;
    const Placement placement = placed(rows, reserve);

    std::map<std::string, PlannedDevice> devices;
    for (const auto& budget : in_.devices) devices[budget.name] = {.name = budget.name, .capacity = budget.bytes};
    for (size_t i = 0; i < units_.size(); ++i) {
      PlannedDevice& d = devices[placement.device[i]];
      d.weights += units_[i].weights, d.adapters += units_[i].adapters;
      d.gradients += units_[i].trainable * kFloat32, d.optimizer += units_[i].trainable * kFloat32 * kAdamStates;
      d.activations += mode == "false" ? units_[i].activations_kept : units_[i].activations_least;
      if (i + 1 == units_.size()) d.activations += loss_bytes_;
      plan_.parameters_trainable += units_[i].trainable;
    }
    for (auto& [name, d] : devices)
      if (d.weights > 0) d.activations += reserve;
    if (in_.for_training && mode != "false") choose_recomputed(mode, placement, devices);

    for (size_t i = 0; i < plan_.modules.size(); ++i) {
      plan_.modules[i].device = placement.device[module_unit_[i]];
      if (in_.devices.size() > 1) plan_.modules[i].reason += "; " + placement.reason[module_unit_[i]];
    }
    for (const auto& budget : in_.devices) {
      const PlannedDevice& d = devices[budget.name];
      plan_.devices.push_back(d);
      plan_.totals.weights += d.weights, plan_.totals.adapters += d.adapters, plan_.totals.gradients += d.gradients;
      plan_.totals.optimizer += d.optimizer, plan_.totals.activations += d.activations;
    }
    plan_.fits = placement.fits, plan_.advice = placement.advice;
    plan_.totals.host_peak = in_.process_bytes + (in_.for_training ? kTrainingRuntime : kInferenceRuntime) +
                             std::max(fill_scratch_bytes(in_.blueprint, plan_), calibration()) + devices["cpu"].total();
    if (in_.recipe.model.max_host_memory && plan_.totals.host_peak > *in_.recipe.model.max_host_memory) {
      plan_.fits = false;
      plan_.advice = concat("the host needs ", human_bytes(plan_.totals.host_peak), " at its peak, model.max_host_memory allows ",
                            human_bytes(*in_.recipe.model.max_host_memory));
    }
    ledger_.devices.before = at::Device(placement.device.front());
    ledger_.devices.after = at::Device(placement.device.back());
    for (size_t s = 0; s < in_.blueprint.stacks.size(); ++s) {
      ledger_.devices.blocks.emplace_back();
      for (int64_t i = 0; i < in_.blueprint.stacks[s].count; ++i)
        ledger_.devices.blocks.back().emplace_back(placement.device[static_cast<size_t>(first_unit_[s] + i)]);
    }
  }

  static std::string type_of(const std::string& device) { return device.substr(0, device.find(':')); }

  // A quantizer at work that does not multiply on this device; null: all do.
  const ActiveQuantizer* missing_on(const std::string& device) const {
    for (const auto& active : in_.quantizers) {
      const auto is_at_work = [&](const PlannedModule& m) { return m.quantizer == active.quantizer.get(); };
      if (std::none_of(plan_.modules.begin(), plan_.modules.end(), is_at_work)) continue;
      const auto types = active.quantizer->facts().devices;
      if (std::find(types.begin(), types.end(), type_of(device)) == types.end()) return &active;
    }
    return nullptr;
  }

  // Where nobody named a device, those on which a quantizer does not multiply are left out; a device that was named is an error.
  Placement placed(const std::vector<PlacementUnit>& rows, int64_t reserve) const {
    const Value& map = in_.recipe.model.device_map;
    const bool is_free = map.is_string() && (map.as_string() == "auto" || map.as_string() == "balanced" || map.as_string() == "sequential");
    std::vector<DeviceBudget> offered;
    std::string reason;
    for (const auto& device : in_.devices) {
      const ActiveQuantizer* missing = is_free && device.name != "cpu" ? missing_on(device.name) : nullptr;
      if (missing)
        reason = concat("quantizer ", missing->section.type, " does not multiply on ", type_of(device.name));
      else
        offered.push_back(device);
    }
    Placement placement = place(rows, map, offered, reserve);
    if (!reason.empty()) std::fill(placement.reason.begin(), placement.reason.end(), reason);
    for (size_t i = 0; i < plan_.modules.size(); ++i) {
      const std::string& device = placement.device[module_unit_[i]];
      if (!plan_.modules[i].quantizer || device == "cpu") continue;
      if (const ActiveQuantizer* missing = missing_on(device); missing && missing->quantizer.get() == plan_.modules[i].quantizer)
        fail(ErrorCode::Device, "device_map puts ", plan_.modules[i].path, " on ", device, ", quantizer ", missing->section.type,
             " multiplies on ", join(missing->quantizer->facts().devices, ", "),
             " alone: keep its modules there, or take another quantizer");
    }
    return placement;
  }

  int64_t calibration() const {
    if (!in_.recipe.calibration) return 0;
    const auto slots = calibrated_slots(in_.blueprint, plan_, in_.quantizers);
    return slots.empty() ? 0 : calibration_bytes(in_.blueprint, plan_, slots, *in_.recipe.calibration, in_.dtypes.precision);
  }

  // auto: a block keeps its activations while there is room on its device; those nearest to the loss first, they are needed first.
  void choose_recomputed(const std::string& mode, const Placement& placement, std::map<std::string, PlannedDevice>& devices) {
    for (int64_t i = static_cast<int64_t>(units_.size()) - 2; i >= 1; --i) {
      const Unit& u = units_[static_cast<size_t>(i)];
      PlannedDevice& d = devices[placement.device[static_cast<size_t>(i)]];
      if (u.activations_kept == 0) continue;
      const int64_t more = u.activations_kept - u.activations_least;
      const int64_t room = d.capacity - d.capacity / 10 - d.total();  // a tenth stays free: activations are an estimate
      if (mode == "auto" && more <= room)
        d.activations += more;
      else
        plan_.recompute.push_back(i - 1);
    }
    std::reverse(plan_.recompute.begin(), plan_.recompute.end());
  }

  const LedgerInputs& in_;
  Ledger ledger_;
  Plan& plan_;
  Sizes sizes_;
  std::vector<Unit> units_;
  std::vector<int> first_unit_;
  std::vector<size_t> module_unit_;
  std::set<std::string> trained_parts_;  // of what trains outside the blocks
  int64_t largest_slot_ = 0, largest_block_ = 0, loss_bytes_ = 0;
};

}  // namespace

Ledger make_ledger(const LedgerInputs& in) { return Builder(in).build(); }

}  // namespace tenon::host
