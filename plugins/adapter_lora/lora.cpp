#include "lora.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <map>
#include <set>

#include "whole.h"

namespace tenon::lora {

namespace {

constexpr const char* kPrefix = kKeyPrefix;

// Names of a target's tensors in the file; PEFT puts no ".weight" behind those of embeddings and magnitudes.
struct Names {
  std::string a, b, magnitude;
};
// As the checkpoint's layout calls the module, so that whoever reads the one reads the other. Of towers and projectors PEFT renames no old
// spelling, so their own names stand.
std::string module_name(const SlotSpec& slot) {
  return kPrefix + (slot.file_path.empty() || !slot.part.empty() ? slot.path : slot.file_path);
}

Names names_of(const SlotSpec& slot) {
  const std::string path = module_name(slot);
  if (slot.kind == SlotKind::Embedding) return {path + ".lora_embedding_A", path + ".lora_embedding_B", ""};
  return {path + ".lora_A.weight", path + ".lora_B.weight", path + ".lora_magnitude_vector"};
}

std::string token_rows_name(const SlotSpec& slot) { return module_name(slot) + ".token_adapter.trainable_tokens_delta"; }

std::string weight_name(const SlotSpec& slot) { return module_name(slot) + ".weight"; }

std::string shape_text(at::IntArrayRef shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// "base_model.model.x.lora_A.default.weight" (a raw state dict) -> "x.lora_A.weight".
std::string plain_key(std::string key) {
  if (key.starts_with(kPrefix)) key = key.substr(std::string(kPrefix).size());
  for (const char* part :
       {".lora_A.", ".lora_B.", ".lora_embedding_A.", ".lora_embedding_B.", ".lora_magnitude_vector.", ".trainable_tokens_delta."}) {
    const size_t at = key.find(std::string(part) + "default");
    if (at == std::string::npos) continue;
    const size_t begin = at + std::string(part).size() - 1;
    key.erase(begin, std::string(".default").size());
  }
  if (key.ends_with(".lora_magnitude_vector.weight")) key.resize(key.size() - 7);
  return key;
}

// PEFT writes what it trains whole under the names of its wrapper as well: the biases with bias = "all", the weights where the vocabulary grew.
bool is_further_copy(const std::string& plain) {
  return plain.ends_with(".modules_to_save.weight") || (plain.ends_with(".bias") && (plain.find(".original_module.") != std::string::npos ||
                                                                                     plain.find(".modules_to_save.") != std::string::npos));
}

}  // namespace

Lora::Lora(const LoraOptions& options) : options_(options) {
  require_served(options_);
  if (options_.init_lora_weights.is_string() && options_.init_lora_weights.as_string() == "default") options_.init_lora_weights = true;
}

std::vector<std::string> Lora::targets(const Blueprint& blueprint) const {
  TargetSet found = find_targets(options_, blueprint, !saved_config_.is_null());
  if (options_.use_dora)
    for (const auto& path : found.paths)
      if (const SlotSpec* slot = blueprint.find_slot(path); slot && slot->kind == SlotKind::Embedding)
        fail(ErrorCode::Recipe, "use_dora on the embedding '", path, "' is not served yet: leave it out of target_modules");
  found_ = std::move(found);
  return found_.paths;
}

std::vector<std::string> Lora::modules_to_save(const Blueprint& blueprint) const {
  TargetSet found = find_targets(options_, blueprint, !saved_config_.is_null());
  found.whole.merge(found.stored);  // dense too
  return {found.whole.begin(), found.whole.end()};
}

std::string Lora::bias_name(const SlotSpec& slot) const {
  if (!slot.bias) return "";
  const std::string path = module_name(slot);
  if (found_.whole.count(slot.path) || found_.biased.count(slot.path)) return path + ".bias";
  return options_.bias == "none" ? "" : path + ".base_layer.bias";
}

std::vector<TensorSpec> Lora::parameters(const SlotSpec& slot) const {
  std::vector<TensorSpec> specs;
  if (found_.stored.count(slot.path)) return specs;  // they take the place of the base's bytes
  if (const auto tokens = found_.tokens.slots.find(slot.path); tokens != found_.tokens.slots.end()) {
    if (tokens->second.owner == slot.path)
      specs.push_back({token_rows_name(slot), {static_cast<int64_t>(tokens->second.ids.size()), slot.in}, at::kFloat});
    return specs;
  }
  if (const std::string bias = bias_name(slot); !bias.empty()) specs.push_back({bias, {slot.out}, at::kFloat});
  if (found_.biased.count(slot.path)) return specs;
  if (found_.whole.count(slot.path)) {
    specs.push_back({weight_name(slot), {slot.out, slot.in}, at::kFloat});
    return specs;
  }
  const int64_t r = rank_of(options_, slot.path);
  const Names names = names_of(slot);
  if (slot.kind == SlotKind::Embedding) return {{names.a, {r, slot.out}, at::kFloat}, {names.b, {slot.in, r}, at::kFloat}};
  specs.insert(specs.end(), {{names.a, {r, slot.in}, at::kFloat}, {names.b, {slot.out, r}, at::kFloat}});
  if (options_.use_dora) specs.push_back({names.magnitude, {slot.out}, at::kFloat});
  return specs;
}

void Lora::initialise(LowRank& update, bool is_embedding) const {
  at::NoGradGuard no_grad;
  const Value& init = options_.init_lora_weights;
  // Drawn on the CPU, so that a start does not depend on where the layer lives.
  auto draw_normal = [](at::Tensor& t, double deviation) { t.copy_(at::empty(t.sizes()).normal_(0, deviation)); };
  auto draw_uniform = [](at::Tensor& t) {
    // Kaiming's bound with a = sqrt(5) is 1 / sqrt(inputs).
    const double bound = 1 / std::sqrt(static_cast<double>(t.size(1)));
    t.copy_(at::empty(t.sizes()).uniform_(-bound, bound));
  };
  const bool is_random_update = init.is_bool() && !init.as_bool();
  if (is_embedding) {
    if (is_random_update) draw_normal(update.a, 1);
    draw_normal(update.b, 1);
    return;
  }
  if (init.is_string())
    draw_normal(update.a, 1.0 / static_cast<double>(update.a.size(0)));
  else
    draw_uniform(update.a);
  if (is_random_update) draw_uniform(update.b);
}

// The narrow product, and with dropout a mask of one byte an element.
double Lora::activation_elements(const SlotSpec& slot) const {
  if (found_.whole.count(slot.path) || found_.biased.count(slot.path) || found_.stored.count(slot.path) ||
      found_.tokens.slots.count(slot.path))
    return 0;
  const double mask = options_.lora_dropout > 0 ? static_cast<double>(slot.in) / static_cast<double>(c10::elementSize(slot.dtype)) : 0;
  return mask + static_cast<double>(options_.r);
}

std::shared_ptr<Filler> Lora::wrap(const SlotSpec& slot, std::shared_ptr<Filler> base, at::Device device, bool trainable) {
  Target target{.slot = slot, .device = device};
  const Target* owner = slot.tied_to.empty() ? nullptr : find(slot.tied_to);
  // A tied head alone cannot be replaced: its embedding would keep the old rows.
  if (!saved_config_.is_null() && may_be_stored(slot) && (slot.tied_to.empty() || (owner && owner->stored))) {
    target.stored = owner ? owner->stored : std::make_shared<StoredRowsFiller>(std::move(base));
    base = target.stored;
  }
  if (found_.stored.count(slot.path)) {
    if (target.stored) targets_.push_back(std::move(target));
    return base;
  }
  target.base = base;
  const at::TensorOptions options = at::TensorOptions(device).dtype(at::kFloat);
  const bool is_whole = found_.whole.count(slot.path), is_adapted = !is_whole && !found_.biased.count(slot.path);
  {
    at::NoGradGuard no_grad;
    if (!bias_name(slot).empty()) target.bias = base->bias().detach().to(options, /*non_blocking=*/false, /*copy=*/true);
    if (is_whole) target.weight = base->dense_rows(at::kFloat, 0, slot.out).to(options, /*non_blocking=*/false, /*copy=*/true);
  }
  std::shared_ptr<Filler> filler;
  if (found_.tokens.slots.count(slot.path))
    filler = add_token_rows(target, std::move(base), options);
  else if (is_whole)
    filler = std::make_shared<WholeFiller>(std::move(base), target.weight, target.bias, switches_);
  else {
    filler = target.bias.defined() ? std::make_shared<BiasFiller>(base, target.bias, switches_) : base;
    if (is_adapted) filler = add_low_rank(target, std::move(filler), options);
  }
  for (const auto& leaf : leaves_of(target)) leaf.tensor.set_requires_grad(trainable);
  targets_.push_back(std::move(target));
  return filler;
}

std::shared_ptr<Filler> Lora::add_token_rows(Target& target, std::shared_ptr<Filler> base, const at::TensorOptions& options) const {
  const SlotSpec& slot = target.slot;
  const TokenRows& tokens = found_.tokens.slots.at(slot.path);
  target.ids = at::tensor(tokens.ids, at::kLong).to(options.device());
  if (tokens.owner != slot.path) {
    const Target* owner = find(tokens.owner);
    if (!owner) fail(ErrorCode::Internal, "'", slot.path, "' was wrapped before '", tokens.owner, "', whose rows it shares");
    // The leaf itself, where both live on one device.
    target.rows = owner->rows.to(options.device());
  } else {
    at::NoGradGuard no_grad;
    target.rows = at::empty({static_cast<int64_t>(tokens.ids.size()), slot.in}, options);
    for (size_t i = 0; i < tokens.ids.size(); ++i)
      target.rows[static_cast<int64_t>(i)].copy_(base->dense_rows(at::kFloat, tokens.ids[i], tokens.ids[i] + 1)[0]);
  }
  return std::make_shared<TokenRowsFiller>(std::move(base), target.ids, target.rows, slot.out, switches_);
}

std::shared_ptr<Filler> Lora::add_low_rank(Target& target, std::shared_ptr<Filler> base, const at::TensorOptions& options) const {
  const SlotSpec& slot = target.slot;
  const bool is_embedding = slot.kind == SlotKind::Embedding;
  const int64_t r = rank_of(options_, slot.path), rows = is_embedding ? slot.in : slot.out, columns = is_embedding ? slot.out : slot.in;
  LowRank& update = target.update;
  update.scaling = scaling_of(options_, slot.path);
  update.dropout = options_.lora_dropout;
  update.a = at::zeros({r, columns}, options);
  update.b = at::zeros({rows, r}, options);
  initialise(update, is_embedding);
  if (is_embedding) return std::make_shared<LoraEmbedding>(std::move(base), update, switches_);
  if (options_.use_dora) update.magnitude = at::zeros({slot.out}, options);
  auto linear = std::make_shared<LoraLinear>(std::move(base), update, switches_);
  if (update.magnitude.defined()) linear->start_magnitude();
  return linear;
}

std::vector<AdapterParameter> Lora::leaves_of(const Target& target) const {
  const Names names = names_of(target.slot);
  std::vector<AdapterParameter> leaves;
  auto add = [&](const std::string& name, const at::Tensor& leaf) {
    if (leaf.defined()) leaves.push_back({name, leaf});
  };
  add(weight_name(target.slot), target.weight);
  // What a file brought goes into the next one, under the name that PEFT has for it; a tied head's copy where the file has one.
  if (target.stored && (target.slot.tied_to.empty() || names_tensor(options_, stored_name(target))))
    add(stored_name(target), target.stored->weight());
  if (target.ids.defined() && found_.tokens.slots.at(target.slot.path).owner == target.slot.path)
    add(token_rows_name(target.slot), target.rows);
  add(names.a, target.update.a);
  add(names.b, target.update.b);
  add(names.magnitude, target.update.magnitude);
  add(bias_name(target.slot), target.bias);
  return leaves;
}

std::vector<AdapterParameter> Lora::state() const {
  std::vector<AdapterParameter> parameters;
  for (const auto& target : targets_)
    for (auto& leaf : leaves_of(target)) parameters.push_back(std::move(leaf));
  return parameters;
}

Value Lora::config(const std::string& base_model) const {
  return write_peft_config(options_, found_.written, found_.tokens.written, base_model, saved_config_);
}

void Lora::configure(const Value& saved_config) {
  options_ = read_peft_config(saved_config, options_);
  require_served(options_);
  saved_config_ = saved_config;
}

std::string Lora::stored_name(const Target& target) const {
  if (found_.stored.count(target.slot.path)) return weight_name(target.slot);
  const bool is_whole = found_.whole.count(target.slot.path) > 0;
  return module_name(target.slot) + (is_whole               ? ".original_module.weight"
                                     : target.ids.defined() ? ".token_adapter.base_layer.weight"
                                                            : ".base_layer.weight");
}

std::string Lora::replace_base(const Target& target, const at::Tensor& rows) const {
  if (!target.stored) {
    // A copy of what is no embedding must be the weight that is here already, up to bfloat16's rounding.
    const at::Tensor own = target.base->dense_rows(at::kFloat, 0, target.slot.out).to(at::kCPU);
    return (rows - own).abs().sub_(own.abs(), 1.0 / 128).max().item<float>() > 1e-6F ? "is another weight than the model's" : "";
  }
  const at::Tensor weight = rows.to(target.device, target.slot.dtype);
  if (weight.equal(target.stored->dense_rows(target.slot.dtype, 0, target.slot.out).to(target.device))) return "";
  if (target.stored->weight().defined()) return "is another weight than that of the embedding, with which it is tied";
  if (target.update.magnitude.defined()) return "is another weight than the model's, which use_dora is not served with";
  target.stored->replace(weight);
  return "";
}

void Lora::load(const TensorSource& weights) {
  at::NoGradGuard no_grad;
  constexpr size_t kListed = 12;
  std::vector<std::string> problems;
  std::map<std::string, std::pair<std::string, at::Tensor>> places;  // plain key -> name as written, tensor
  std::map<std::string, const Target*> bases;                        // plain key of a saved copy of the base weight
  std::map<std::string, const Target*> own_bases;                    // the same, under a name that is nobody else's
  std::map<std::string, const Target*> twins;                        // plain key of a tied head's rows, which are its embedding's
  std::set<std::string> missing;
  const size_t prefix = std::string(kPrefix).size();
  for (const auto& target : targets_)
    for (const auto& [name, tensor] : leaves_of(target)) {
      missing.insert(name);
      places.emplace(name.substr(prefix), std::pair{name, tensor});
    }
  for (const auto& target : targets_)
    if (found_.stored.count(target.slot.path))
      for (const std::string& name : {weight_name(target.slot).substr(prefix), target.slot.path + ".weight"})
        own_bases.emplace(name, &target);
  // A head that is tied to an embedding may have lain under its name: each one's own name comes first.
  for (const auto& target : targets_) {
    for (const auto& [name, tensor] : leaves_of(target)) {
      const std::string tail = name.substr(module_name(target.slot).size());
      for (const auto& path : known_paths(target.slot)) {
        places.emplace(path + tail, std::pair{name, tensor});
        if (tail == ".base_layer.bias")
          places.emplace(path + ".bias", std::pair{name, tensor});  // files from before PEFT's wrapper had its name there
      }
    }
    for (const auto& path : known_paths(target.slot)) {
      if (target.ids.defined()) twins.emplace(path + token_rows_name(target.slot).substr(module_name(target.slot).size()), &target);
      bases.emplace(path + ".base_layer.weight", &target);
      if (!target.stored) continue;
      for (const char* tail : {".weight", ".original_module.weight", ".token_adapter.base_layer.weight"})
        bases.emplace(path + tail, &target);
    }
  }
  const auto target_of = [](const std::map<std::string, const Target*>& named, const std::string& key) {
    const auto found = named.find(key);
    return found == named.end() ? nullptr : found->second;
  };
  for (const auto& key : weights.names()) {
    const std::string plain = plain_key(key);
    if (is_further_copy(plain)) continue;
    const Target* base = target_of(own_bases, plain);
    if (base) missing.erase(stored_name(*base));
    if (auto place = places.find(plain); !base && place != places.end()) {
      const auto& [name, tensor] = place->second;
      const TensorSpec spec = weights.spec(key);
      const bool is_first = missing.erase(name) > 0;
      if (!is_first && twins.count(plain)) continue;  // an embedding's rows, and those of the head that is tied to it
      if (!is_first)
        problems.push_back(concat("'", key, "' comes twice"));
      else if (at::IntArrayRef(spec.shape) != tensor.sizes())
        problems.push_back(concat("'", key, "' is ", shape_text(spec.shape), ", expected ", shape_text(tensor.sizes())));
      else
        tensor.copy_(weights.read(key));
    } else if (base = base ? base : target_of(bases, plain); base) {
      const at::Tensor copy = weights.read(key).to(at::kFloat);
      const Target& target = *base;
      const SlotSpec& slot = target.slot;
      if (copy.sizes() != at::IntArrayRef({slot.out, slot.in}))
        problems.push_back(concat("'", key, "' is ", shape_text(copy.sizes()), ", the model's weight is [", slot.out, ", ", slot.in, "]",
                                  target.stored ? ": it was saved with another vocabulary, whose tokens text.add_tokens brings" : ""));
      else if (const std::string problem = replace_base(target, copy); !problem.empty())
        problems.push_back(concat("'", key, "' ", problem));
    } else if (!twins.count(plain)) {
      problems.push_back(concat("'", key, "' has no place in this model"));
    }
  }
  for (const auto& key : weights.names())
    if (auto twin = twins.find(plain_key(key)); twin != twins.end())
      if (const at::Tensor rows = weights.read(key).to(at::kFloat); !rows.equal(twin->second->rows.to(at::kCPU)))
        problems.push_back(concat("'", key, "' is not what the embedding's rows are, with which it is tied"));
  for (const auto& name : missing) problems.push_back(concat("'", name, "' is missing"));
  if (problems.empty()) return;
  std::string text;
  for (size_t i = 0; i < problems.size() && i < kListed; ++i) text += "\n  " + problems[i];
  if (problems.size() > kListed) text += concat("\n  and ", problems.size() - kListed, " more");
  fail(ErrorCode::Data, "the adapter does not fit the model:", text);
}

const Lora::Target* Lora::find(const std::string& path) const {
  for (const auto& target : targets_)
    if (target.slot.path == path) return &target;
  return nullptr;
}

at::Tensor Lora::merge(const SlotSpec& slot, const at::Tensor& weight) const {
  const Target* target = find(slot.path);
  if (!target) return weight;
  if (target->weight.defined()) return target->weight.detach().to(weight.device());
  if (target->ids.defined())
    return weight.index_copy(0, target->ids.to(weight.device()), target->rows.detach().to(weight.device(), weight.scalar_type()));
  return target->update.a.defined() ? merged(target->update, slot.kind == SlotKind::Embedding, weight) : weight;
}

}  // namespace tenon::lora
