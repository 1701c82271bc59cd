#include "model/load.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <fmt/format.h>

#include <algorithm>
#include <future>
#include <set>

#include "base/json.h"
#include "base/log.h"
#include "base/options.h"
#include "base/text.h"
#include "checkpoint/safetensors.h"
#include "model/backbones.h"
#include "model/calibrate.h"
#include "model/choose.h"
#include "model/devices.h"
#include "model/fill.h"
#include "model/freeze.h"
#include "model/guards.h"
#include "model/ledger.h"
#include "model/new_tokens.h"
#include "model/parts.h"
#include "model/precision.h"
#include "model/text_files.h"
#include "tenon/new_rows.h"

namespace tenon::host {

namespace {

// What is decided on the way and needed again by the fill.
struct Loading {
  const LoadRequest& request;
  const Recipe& recipe;
  Registry& registry;
  std::unique_ptr<LoadedModel> model = std::make_unique<LoadedModel>();
  std::vector<ActiveQuantizer> quantizers;
  std::vector<std::pair<std::string, std::unique_ptr<Patch>>> patches;
  std::vector<PatchSection> patch_sections;  // the recipe's, with what their plugins are told
  std::vector<AdapterSection> adapter_sections;
  std::set<std::string> active_patches;  // that changed something
  std::vector<std::string> notes;
  Purpose purpose = Purpose::Inference;
  DtypePolicy dtypes;
  std::set<std::string> calibrated;  // slots that calibrate.h fills
  std::set<std::string> frozen;      // by train.freeze

  explicit Loading(const LoadRequest& r) : request(r), recipe(*r.recipe), registry(*r.registry) {}

  // Runs one moment of every patch, in recipe order.
  template <class Moment>
  void patch(const char* call, Moment&& moment) {
    for (auto& [name, patch] : patches) {
      bool changed = false;
      call_plugin(name, call, "", [&, &on = *patch] { changed = moment(on); });
      if (changed) active_patches.insert(name);
    }
  }
};

// Before plugins are made: what the tokenizer says goes into their options.
void add_new_tokens(Loading& l) {
  NewTokens tokens;
  if (needs_tokenizer(l.recipe, l.registry))
    tokens = read_new_tokens(l.recipe, l.registry, *Checkpoint::open(l.recipe.model.path, Weights::Ignore));
  std::string implicit;
  l.patch_sections = patches_with(tokens, l.recipe, l.registry, implicit);
  if (!implicit.empty()) l.active_patches.insert(implicit);  // nobody asked for it: no word when it changes nothing
  l.adapter_sections = adapters_with(tokens, l.recipe, l.registry, l.notes);
  l.model->added_tokens = std::move(tokens.added);
}

// Every plugin that the recipe names, asked for together, so that all option problems come in one report.
void make_plugins(Loading& l) {
  std::vector<std::string> problems;
  bool only_plugin_problems = true;
  auto place_of = [&](const Value& v) { return locate(l.recipe, v.place); };
  auto check = [&](const auto& provider, const Value& options, const std::string& owner) {
    const auto found = check_options(provider.options, options, owner, place_of,
                                     [&](const std::string& option) { return l.registry.owner_of_option(option, owner); });
    if (!found.empty()) only_plugin_problems = false;
    problems.insert(problems.end(), found.begin(), found.end());
    return found.empty();
  };
  auto attempt = [&](const Value::Place& place, auto&& body) {
    try {
      body();
    } catch (const Error& error) {
      if (error.code() != ErrorCode::Plugin) only_plugin_problems = false;
      problems.push_back(locate(l.recipe, place) + ": " + error.what());
    }
  };
  for (const auto& section : l.recipe.quantizers)
    attempt(section.place, [&] {
      const auto& provider = l.registry.quantizer(section.type);
      if (check(provider, section.options, "quantizer " + section.type))
        l.quantizers.push_back({section, std::shared_ptr<Quantizer>(provider.make(section.options)), false});
    });
  for (const auto& section : l.patch_sections)
    attempt(section.place, [&] {
      const auto& provider = l.registry.patch(section.type);
      if (check(provider, section.options, "patch " + section.type)) l.patches.emplace_back(section.type, provider.make(section.options));
    });
  for (const auto& section : l.adapter_sections)
    attempt(section.place, [&] {
      const auto& provider = l.registry.adapter(section.type);
      if (!check(provider, section.options, "adapter " + section.type)) return;
      l.model->adapters.push_back({section.name, section.type, provider.make(section.options)});
      if (!section.path.empty()) {
        const auto file = section.path / "adapter_config.json";
        with_context(file.string(), [&] { l.model->adapters.back().adapter->configure(read_json_file(file)); });
      }
    });
  if (l.recipe.train)
    attempt(l.recipe.train->place, [&] {
      const auto& provider = l.registry.objective(l.recipe.train->objective);
      check(provider, l.recipe.train->objective_options, "objective " + l.recipe.train->objective);
    });
  if (!problems.empty()) throw Error(only_plugin_problems ? ErrorCode::Plugin : ErrorCode::Recipe, join(problems, "\n"));
}

void read_config(Loading& l) {
  LoadedModel& m = *l.model;
  m.checkpoint = Checkpoint::open(l.recipe.model.path);
  m.config = m.checkpoint->config();
  if (l.recipe.model.overrides.is_table())
    for (const auto& [key, value] : l.recipe.model.overrides.as_table()) m.config.set(key, value);
  l.patch("on_config", [&](Patch& patch) { return patch.on_config(m.config); });
}

// config.json's quantization_config, or one of the files in which it stood before.
std::optional<Value> stored_quantization(const Loading& l) {
  if (const Value* stored = l.model->config.find_set("quantization_config")) return *stored;
  for (const char* name : {"quantize_config.json", "quant_config.json"})
    if (const auto file = l.model->checkpoint->folder() / name; std::filesystem::exists(file)) return read_json_file(file);
  return std::nullopt;
}

// An option that a recipe repeats must be the checkpoint's own.
void refuse_contradiction(const Loading& l, const QuantizerSection& section, const Value& stored) {
  for (const auto& [key, value] : section.options.as_table())
    if (const Value* own = stored.find_set(key); own && !(*own == value))
      fail(ErrorCode::Recipe, locate(l.recipe, value.place), ": quantizer ", section.type, ": the recipe says ", key, " = ", to_json(value),
           ", the checkpoint is stored with ", key, " = ", to_json(*own), ": remove the option, or start from the unquantized checkpoint");
}

// A checkpoint that is stored quantized says so itself; a recipe may repeat it, not contradict it.
void recognise_quantized(Loading& l) {
  const std::optional<Value> stored = stored_quantization(l);
  if (!stored) return;
  const std::string method = stored->string_or("quant_method", "");
  // Older files do not say the method: every quantizer is asked.
  const std::vector<std::string> names =
      method.empty() ? l.registry.names("quantizer") : l.registry.names_with("quantizer", "method", method);
  for (const std::string& name : names) {
    const auto& provider = l.registry.quantizer(name);
    std::optional<Value> options = provider.make(Value::table())->recognise(*stored, *l.model->checkpoint);
    if (!options) continue;
    for (const auto& active : l.quantizers)
      if (active.section.type != name)
        fail(ErrorCode::Recipe, "the checkpoint is stored as ", name, " (quant_method ", method, "), the recipe asks for quantizer ",
             active.section.type, ": remove [quantizer], or start from the unquantized checkpoint");
    for (const auto& given : l.quantizers) refuse_contradiction(l, given.section, *options);
    ActiveQuantizer active;
    active.section.type = name;
    active.section.options = *options;
    active.quantizer = std::shared_ptr<Quantizer>(provider.make(*options));
    active.from_checkpoint = true;
    l.quantizers = {std::move(active)};
    return;
  }
  fail(ErrorCode::Data, "the checkpoint is quantized (quant_method '", method,
       "') in a way that no plugin here reads: quantizers that are here are ", join(l.registry.names("quantizer"), ", "));
}

at::ScalarType stored_dtype(const Checkpoint& checkpoint) {
  if (checkpoint.has_weights())
    for (const auto& name : checkpoint.names())
      if (const auto dtype = checkpoint.spec(name).dtype; at::isFloatingType(dtype)) return dtype;
  return at::kFloat;
}

// The module paths under which this checkpoint's layout knows the slots: adapters are written under these names.
void set_file_paths(Blueprint& blueprint, const Checkpoint& checkpoint) {
  constexpr std::string_view kEnd = ".weight";
  std::set<std::string> own;
  for (const auto& slot : blueprint.slots) own.insert(slot.path);
  for (auto& slot : blueprint.slots)
    for (const auto& source : slot.sources) {
      if (!slot.file_path.empty()) break;  // the architecture's own word
      const GrownSource grown = split_new_rows(source);
      if (grown.stored.pieces.size() != 1 || source.stack) continue;
      const std::string& name = grown.stored.pieces.front().tensor;
      if (!name.ends_with(kEnd) || !checkpoint.has(name)) continue;
      // A tied embedding may lie under the head's name, which is no name of its own.
      if (const std::string path = name.substr(0, name.size() - kEnd.size()); !own.count(path)) slot.file_path = path;
      break;
    }
}

// The blueprint with the host's dtype policy written into it.
Blueprint make_blueprint(Loading& l) {
  LoadedModel& m = *l.model;
  const Value* type = m.config.find_set("model_type");
  if (!type || !type->is_string())
    fail(ErrorCode::Data, (m.checkpoint->folder() / "config.json").string(), ": model_type is missing: it says which architecture this is");
  m.backbones = std::make_unique<RegistryBackbones>(l.registry);
  m.architecture = m.backbones->make(type->as_string());
  Blueprint blueprint;
  call_plugin(type->as_string(), "blueprint", "config.json", [&] { blueprint = m.architecture->blueprint(m.config); });
  l.purpose = !l.request.for_training ? Purpose::Inference : m.adapters.empty() ? Purpose::FullTraining : Purpose::AdapterTraining;
  const at::ScalarType model_dtype = resolve_model_dtype(l.recipe.model.dtype, m.config, stored_dtype(*m.checkpoint));
  l.dtypes = resolve_dtypes(model_dtype, l.purpose);
  m.precision = l.dtypes.precision;
  if (l.purpose == Purpose::FullTraining && l.recipe.train) l.frozen = frozen_paths(blueprint, l.recipe.train->freeze);
  // Patches see the policy and may change it; what they add gets it afterwards.
  std::set<std::string> judged;
  const auto apply_policy = [&] {
    for (auto& slot : blueprint.slots)
      if (judged.insert(slot.path).second) slot.dtype = l.frozen.count(slot.path) ? model_dtype : l.dtypes.weights;
    for (auto& tensor : blueprint.tensors)
      if (judged.insert(tensor.path).second) tensor.dtype = l.dtypes.norms;
  };
  apply_policy();
  l.patch("on_blueprint", [&](Patch& patch) { return patch.on_blueprint(blueprint); });
  apply_policy();
  for (const auto& slot : blueprint.slots)
    l.dtypes.head_in_float32 |= slot.role == SlotRole::OutputHead && slot.dtype == at::kFloat && l.dtypes.weights != at::kFloat;
  if (l.dtypes.head_in_float32) l.notes.push_back("the output head multiplies in float32");
  if (m.checkpoint->has_weights()) set_file_paths(blueprint, *m.checkpoint);
  for (auto& active : l.quantizers)
    if (active.from_checkpoint)
      for (const auto& slot : blueprint.slots)
        if (slot.tied_to.empty() && !active.quantizer->locate(slot, *m.checkpoint).empty()) active.stored.insert(slot.path);

  if (l.purpose == Purpose::FullTraining && !l.quantizers.empty())
    fail(ErrorCode::Recipe, "quantized weights cannot be trained themselves: add an [adapter], or remove [quantizer]");
  return blueprint;
}

// CUDA devices first, the host last, within model.max_memory.
std::vector<DeviceBudget> usable_devices(const Loading& l) {
  std::vector<DeviceBudget> devices = l.request.assumed_devices;
  const bool assumed = !devices.empty();
  const Value& map = l.recipe.model.device_map;
  const bool cpu_only = map.is_string() && map.as_string() == "cpu";
  if (!assumed && !cpu_only) devices = cuda_devices();
  if (std::none_of(devices.begin(), devices.end(), [](const auto& d) { return d.name == "cpu"; }))
    devices.push_back({"cpu", host_memory_available()});
  std::stable_partition(devices.begin(), devices.end(), [](const auto& d) { return d.name != "cpu"; });
  for (const auto& [name, bytes] : l.recipe.model.max_memory) {
    auto it = std::find_if(devices.begin(), devices.end(), [&, n = name](const auto& d) { return d.name == n; });
    if (it == devices.end()) fail(ErrorCode::Recipe, "model.max_memory names '", name, "', which is not there");
    it->bytes = std::min(it->bytes, bytes);
  }
  return devices;
}

void note_unused_patches(Loading& l) {
  for (const auto& [name, patch] : l.patches)
    if (!l.active_patches.count(name)) log_warn("patch '" + name + "' changes nothing in this model");
}

// Which slots need texts to be quantized, and that the recipe names some.
void check_calibration(Loading& l, const Blueprint& blueprint) {
  l.calibrated = calibrated_slots(blueprint, l.model->plan, l.quantizers);
  if (l.calibrated.empty()) {
    if (l.recipe.calibration) l.model->plan.notes.push_back("[calibration] is not needed: no weight of this model is quantized with texts");
    return;
  }
  if (!l.recipe.calibration) {
    const PlannedModule* module = l.model->plan.find(*l.calibrated.begin());
    fail(ErrorCode::Recipe, "quantizer ", module->filler,
         " looks at texts while it quantizes: add [calibration] with files = [\"texts.jsonl\"]",
         " (.jsonl, .json or .txt), or use a checkpoint that is stored quantized");
  }
}

// What the kept blocks of a calibration depend on besides tokens and weights.
Value calibration_identity(const Loading& l, const LoadedModel& m) {
  Value identity = Value::table();
  // Adapters that leave the weights as they are may come and go.
  const bool is_prepared = std::any_of(m.adapters.begin(), m.adapters.end(), [](const auto& a) { return a.adapter->wants_weight(); });
  identity.set("config", m.config);
  // Of the plugins those that have a say in it: an objective may be loaded or not.
  std::set<std::string> ids{l.registry.plugin_of("architecture", m.config.at("model_type").as_string())};
  for (const auto& quantizer : l.recipe.quantizers) ids.insert(l.registry.plugin_of("quantizer", quantizer.type));
  for (const auto& patch : l.recipe.patches) ids.insert(l.registry.plugin_of("patch", patch.type));
  for (const auto& adapter : l.recipe.adapters)
    if (is_prepared) ids.insert(l.registry.plugin_of("adapter", adapter.type));
  const Value loaded = l.registry.loaded();
  Value plugins = Value::list();
  for (const Value& plugin : loaded.as_list())
    if (ids.count(plugin.at("id").as_string())) plugins.as_list().push_back(plugin);
  identity.set("plugins", plugins);
  for (const char* section : {"quantizer", "patch", is_prepared ? "adapter" : ""})
    if (const Value* given = l.recipe.resolved.find_set(section)) identity.set(section, *given);
  identity.set("random", l.recipe.model.init == "random");
  if (l.recipe.model.init == "random" && l.recipe.train) identity.set("seed", l.recipe.train->seed);
  Value places = Value::list();
  for (const auto& module : m.plan.modules)
    places.as_list().push_back(concat(module.path, " ", module.filler, " ", module.dtype, " ", module.device));
  identity.set("modules", places);
  return identity;
}

// The blocks that need texts, once everything else is in.
void calibrate_blocks(Loading& l, LoadedModel& m, FillRequest fill, const TextCodec* text) {
  fill.deferred = nullptr;
  const CalibrationReport report =
      calibrate({.fill = fill,
                 .model = *m.model,
                 .section = *l.recipe.calibration,
                 .slots = l.calibrated,
                 .text = text,
                 .folder = l.recipe.output_dir ? *l.recipe.output_dir / "calibration" : std::filesystem::path(),
                 .recipe = calibration_identity(l, m)});
  int64_t least = report.tokens;
  for (const auto& module : report.modules) least = std::min(least, module.tokens);
  log_info(concat("calibrated on ", report.tokens, " tokens in ", human_seconds(report.seconds),
                  report.modules.empty() ? "" : concat("; every module saw at least ", least),
                  report.blocks_kept ? concat("; blocks taken over from an earlier run: ", report.blocks_kept) : ""));
}

void note_new_rows(Loading& l, const Blueprint& blueprint) {
  for (const auto& slot : blueprint.slots)
    if (!slot.sources.empty())
      if (const int64_t rows = split_new_rows(slot.sources.front()).new_rows; rows > 0)
        l.notes.push_back(concat(slot.path, ": ", rows, " new rows behind the ", slot.out - rows, " of the checkpoint"));
}

void prepare(Loading& l) {
  add_new_tokens(l);
  make_plugins(l);
  read_config(l);
  recognise_quantized(l);
  LoadedModel& m = *l.model;
  Blueprint blueprint = make_blueprint(l);
  Ledger ledger = make_ledger({.recipe = l.recipe,
                               .blueprint = blueprint,
                               .quantizers = l.quantizers,
                               .adapters = m.adapters,
                               .dtypes = l.dtypes,
                               .purpose = l.purpose,
                               .for_training = l.request.for_training,
                               .frozen = l.frozen,
                               .devices = usable_devices(l),
                               .process_bytes = host_memory_now()});
  m.plan = std::move(ledger.plan);
  m.plan.notes.insert(m.plan.notes.end(), l.dtypes.notes.begin(), l.dtypes.notes.end());
  note_new_rows(l, blueprint);
  m.plan.notes.insert(m.plan.notes.end(), l.notes.begin(), l.notes.end());
  check_calibration(l, blueprint);
  m.parts = std::make_shared<ModelParts>(std::move(blueprint), l.dtypes.precision, std::move(ledger.devices));
  const std::string type = m.config.at("model_type").as_string();
  call_plugin(type, "build", "the model", [&] { m.model = m.architecture->build(m.config, *m.parts); });
  m.model = guard_model(type, std::move(m.model), l.dtypes.head_in_float32);
  l.patch("on_seams", [&](Patch& patch) { return patch.on_seams(m.model->seams()); });
  m.model->seams().for_each([&](const auto& seam) {
    if (seam.is_set()) m.plan.seams.emplace_back(seam.name(), seam.chain());
  });
}

// The smallest change that would make the plan fit, found by planning again with it.
std::string find_remedy(const LoadRequest& request) {
  const Recipe& recipe = *request.recipe;
  auto fits = [&](const Recipe& changed) {
    try {
      LoadRequest again = request;
      again.recipe = &changed;
      Loading l(again);
      prepare(l);
      return l.model->plan.fits;
    } catch (const Error&) {
      return false;
    }
  };
  if (recipe.train && request.for_training) {
    Recipe changed = recipe;
    if (changed.train->gradient_checkpointing == "false") {
      changed.train->gradient_checkpointing = "auto";
      if (fits(changed)) return "train.gradient_checkpointing = \"auto\" would fit";
    }
    while (changed.train->per_device_train_batch_size > 1) {
      changed.train->per_device_train_batch_size /= 2;
      if (fits(changed)) return concat("train.per_device_train_batch_size = ", changed.train->per_device_train_batch_size, " would fit");
    }
    while (changed.data && changed.data->max_length > 256) {
      changed.data->max_length /= 2;
      if (fits(changed)) return concat("data.max_length = ", changed.data->max_length, " with a batch of 1 would fit");
    }
  }
  if (recipe.quantizers.empty())
    for (const auto& name : request.registry->names("quantizer")) {
      Recipe changed = recipe;
      changed.quantizers.push_back({.type = name});
      if (fits(changed)) return concat("a [quantizer] of type \"", name, "\" would fit");
    }
  return "no smaller setting of this recipe fits: it takes more memory, or a smaller model";
}

std::unique_ptr<LoadedModel> planned(Loading& l) {
  prepare(l);
  Plan& plan = l.model->plan;
  if (!plan.fits) plan.advice += "; " + find_remedy(l.request);
  return std::move(l.model);
}

void adapt(Loading& l, LoadedModel& m) {
  auto& parts = static_cast<ModelParts&>(*m.parts);
  const bool trainable = l.request.for_training;
  for (size_t i = 0; i < m.adapters.size(); ++i) {
    auto& loaded = m.adapters[i];
    const auto& section = l.recipe.adapters[i];
    for (const auto& path : loaded.adapter->targets(parts.blueprint())) {
      Slot& slot = parts.slot(path);
      const at::Device device(m.plan.find(path)->device);
      std::shared_ptr<Filler> filler;
      call_plugin(loaded.type, "wrap", path, [&] { filler = loaded.adapter->wrap(slot.spec(), slot.filler_ptr(), device, trainable); });
      slot.fill(guard_filler(loaded.type, path, std::move(filler)));
    }
    if (!section.path.empty()) {
      const auto file = section.path / "adapter_model.safetensors";
      const SafetensorsFile weights(file);
      with_context(file.string(), [&] { call_plugin(loaded.type, "load", section.path.string(), [&] { loaded.adapter->load(weights); }); });
    }
    loaded.adapter->set_training(false);
  }
}

}  // namespace

std::unique_ptr<LoadedModel> plan_model(const LoadRequest& request) {
  Loading l(request);
  return planned(l);
}

std::unique_ptr<LoadedModel> load_model(const LoadRequest& request) {
  Loading l(request);
  std::unique_ptr<LoadedModel> m = planned(l);
  if (!m->plan.fits) fail(ErrorCode::Device, "the model does not fit: ", m->plan.advice, " (`host plan` shows the ledger)");
  for (const auto& note : m->plan.notes) log_info(note);

  // The tokenizer loads beside the weights.
  auto text = std::async(std::launch::async, [&] { return load_text(l.recipe, l.registry, *m->checkpoint, l.request.want_text); });
  const bool random = l.recipe.model.init == "random";
  if (!random && !m->checkpoint->has_weights())
    fail(ErrorCode::Data, "'", m->checkpoint->folder().string(),
         "' holds a config.json and no weights: model.init = \"random\" would start from nothing");
  const uint64_t seed = l.recipe.train ? static_cast<uint64_t>(l.recipe.train->seed) : 0;
  const FillRequest fill{.parts = static_cast<ModelParts&>(*m->parts),
                         .plan = m->plan,
                         .checkpoint = m->checkpoint,
                         .quantizers = l.quantizers,
                         .adapters = m->adapters,
                         .random = random,
                         .initializer_range = m->config.float_or("initializer_range", 0.02),
                         .seed = seed,
                         .train_dense = l.purpose == Purpose::FullTraining,
                         .frozen = &l.frozen,
                         .deferred = &l.calibrated};
  const FillReport report = fill_model(fill);
  for (const auto& note : report.notes) log_info(note);
  log_info(concat(random ? "initialised " : "loaded ", human_bytes(report.bytes_resident), " in ", human_seconds(report.seconds),
                  ", host peak ", human_bytes(host_memory_peak()), " (planned ", human_bytes(m->plan.totals.host_peak), ")"));
  if (!l.calibrated.empty()) {
    m->text = text.get();
    calibrate_blocks(l, *m, fill, m->text.get());
  }
  l.patch("on_model", [&](Patch& patch) { return patch.on_model(*m->model); });
  note_unused_patches(l);

  {
    auto generator = at::detail::getDefaultCPUGenerator();
    std::lock_guard lock(generator.mutex());
    generator.set_current_seed(seed);
  }
  adapt(l, *m);
  if (l.request.for_training) {
    const Plan& p = m->plan;
    log_info(
        fmt::format("trainable params: {} || all params: {} || trainable%: {:.4f}", p.parameters_trainable, p.parameters_total,
                    100.0 * static_cast<double>(p.parameters_trainable) / static_cast<double>(std::max<int64_t>(p.parameters_total, 1))));
  }
  if (text.valid()) m->text = text.get();
  m->media = load_processor(l.recipe, *m->architecture, m->config, *m->checkpoint);
  return m;
}

}  // namespace tenon::host
