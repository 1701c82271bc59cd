#include "ia3.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>

#include <algorithm>
#include <map>
#include <regex>

namespace ia3 {

using namespace tenon;

namespace {

constexpr const char* kPrefix = "base_model.model.";

std::string name_of(const SlotSpec& slot) { return kPrefix + slot.path + ".ia3_l"; }

// PEFT's rules: a string is a regular expression on the whole path, a list names modules or their ends.
bool matches(const Value& rule, const std::string& path) {
  if (rule.is_string()) return std::regex_match(path, std::regex(rule.as_string()));
  if (!rule.is_list()) return false;
  return std::any_of(rule.as_list().begin(), rule.as_list().end(), [&](const Value& item) {
    const std::string& name = item.as_string();
    return path == name || path.ends_with("." + name);
  });
}

// PEFT's table for the model types that it knows.
struct Defaults {
  std::vector<std::string> targets, feedforward;
};
Defaults defaults_for(const std::string& model_type) {
  static const std::map<std::string, Defaults> table = {{"llama", {{"k_proj", "v_proj", "down_proj"}, {"down_proj"}}},
                                                        {"mistral", {{"k_proj", "v_proj", "down_proj"}, {"down_proj"}}},
                                                        {"llama4", {{"q_proj", "v_proj", "down_proj"}, {"down_proj"}}},
                                                        {"gemma", {{"q_proj", "v_proj", "down_proj"}, {"down_proj"}}},
                                                        {"gemma2", {{"q_proj", "v_proj", "down_proj"}, {"down_proj"}}},
                                                        {"gemma3_text", {{"q_proj", "v_proj", "down_proj"}, {"down_proj"}}},
                                                        {"qwen2", {{"q_proj", "v_proj", "down_proj"}, {"down_proj"}}},
                                                        {"qwen3", {{"q_proj", "v_proj", "down_proj"}, {"down_proj"}}},
                                                        {"phi", {{"q_proj", "v_proj", "fc2"}, {"fc2"}}}};
  const auto found = table.find(model_type);
  if (found == table.end())
    fail(ErrorCode::Recipe, "target_modules has no default for model_type '", model_type, "': name target_modules and feedforward_modules");
  return found->second;
}

class Ia3Filler final : public Filler {
 public:
  Ia3Filler(std::shared_ptr<Filler> base, Target target, std::shared_ptr<bool> enabled)
      : base_(std::move(base)), target_(std::move(target)), enabled_(std::move(enabled)) {}

  std::string describe() const override { return "ia3(" + base_->describe() + ")"; }
  at::Tensor linear(const at::Tensor& x) override {
    if (!*enabled_) return base_->linear(x);
    const at::Tensor l = target_.l.flatten();
    // Products in float32 where the vector is, as PEFT has them, then back to the activation's dtype.
    if (target_.is_feedforward) return base_->linear((x * l).to(x.scalar_type()));
    const at::Tensor y = base_->linear(x);
    return (y * l).to(y.scalar_type());
  }
  at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const override {
    const at::Tensor rows = base_->dense_rows(dtype, first, last);
    if (!*enabled_) return rows;
    const at::Tensor l = target_.l.detach();
    return (rows * (target_.is_feedforward ? l : l.narrow(0, first, last - first))).to(dtype);
  }
  at::Tensor bias() const override {
    const at::Tensor bias = base_->bias();
    if (!bias.defined() || !*enabled_ || target_.is_feedforward) return bias;
    return (bias * target_.l.detach().flatten()).to(bias.scalar_type());
  }

 private:
  std::shared_ptr<Filler> base_;
  Target target_;
  std::shared_ptr<bool> enabled_;
};

}  // namespace

std::vector<std::string> Ia3::targets(const Blueprint& blueprint) const {
  targets_rule_ = options_.target_modules, feedforward_ = options_.feedforward_modules;
  if (targets_rule_.is_null()) {
    const Defaults defaults = defaults_for(blueprint.model_type);
    targets_rule_ = Value(defaults.targets);
    if (feedforward_.is_null()) feedforward_ = Value(defaults.feedforward);
  }
  if (feedforward_.is_null()) feedforward_ = Value::list();
  std::vector<std::string> paths;
  for (const auto& slot : blueprint.slots)
    if (slot.kind == SlotKind::Linear && slot.count == 1 && matches(targets_rule_, slot.path)) paths.push_back(slot.path);
  if (paths.empty()) fail(ErrorCode::Recipe, "target_modules of adapter ia3 match no linear layer of this model");
  return paths;
}

bool Ia3::is_feedforward(const std::string& path) const { return matches(feedforward_, path); }

std::vector<TensorSpec> Ia3::parameters(const SlotSpec& slot) const {
  if (is_feedforward(slot.path)) return {{name_of(slot), {1, slot.in}, at::kFloat}};
  return {{name_of(slot), {slot.out, 1}, at::kFloat}};
}

// What the vector's gradient needs: the scaled side of the layer. The input of a feed-forward layer is kept in any case.
double Ia3::activation_elements(const SlotSpec& slot) const { return is_feedforward(slot.path) ? 0 : static_cast<double>(slot.out); }

std::shared_ptr<Filler> Ia3::wrap(const SlotSpec& slot, std::shared_ptr<Filler> base, at::Device device, bool trainable) {
  const std::vector<int64_t> shape = parameters(slot)[0].shape;
  // Drawn on the CPU, so that a start does not depend on where the layer lives.
  const at::Tensor l = (options_.init_ia3_weights ? at::ones(shape) : at::randn(shape)).to(device).set_requires_grad(trainable);
  targets_.push_back({slot, l, is_feedforward(slot.path)});
  return std::make_shared<Ia3Filler>(std::move(base), targets_.back(), enabled_);
}

std::vector<AdapterParameter> Ia3::state() const {
  std::vector<AdapterParameter> parameters;
  for (const auto& target : targets_) parameters.push_back({name_of(target.slot), target.l});
  return parameters;
}

Value Ia3::config(const std::string& base_model) const {
  Value out = Value::table();
  out.set("auto_mapping", Value());
  out.set("base_model_name_or_path", base_model.empty() ? Value() : Value(base_model));
  out.set("exclude_modules", Value());
  out.set("fan_in_fan_out", false);
  out.set("feedforward_modules", feedforward_);
  out.set("inference_mode", true);
  out.set("init_ia3_weights", options_.init_ia3_weights);
  out.set("modules_to_save", Value());
  out.set("peft_type", "IA3");
  out.set("revision", Value());
  out.set("target_modules", targets_rule_);
  out.set("task_type", "CAUSAL_LM");
  return out;
}

void Ia3::configure(const Value& saved) {
  if (saved.string_or("peft_type", "") != "IA3")
    fail(ErrorCode::Data, "peft_type is '", saved.string_or("peft_type", ""), "', expected IA3: another adapter wrote this folder");
  for (const auto& [key, value] : saved.as_table()) {
    if (key == "target_modules") options_.target_modules = value;
    if (key == "feedforward_modules") options_.feedforward_modules = value;
    // What would change the arithmetic and is not done here.
    const bool is_set = !value.is_null() && !(value.is_bool() && !value.as_bool()) && !(value.is_list() && value.as_list().empty());
    if (is_set && (key == "fan_in_fan_out" || key == "modules_to_save" || key == "exclude_modules"))
      fail(ErrorCode::Data, key, " is set, which adapter ia3 does not serve");
  }
}

void Ia3::load(const TensorSource& weights) {
  at::NoGradGuard no_grad;
  std::string problems;
  for (auto& target : targets_) {
    const std::string name = name_of(target.slot);
    if (!weights.has(name))
      problems += "\n  '" + name + "' is missing";
    else if (at::IntArrayRef(weights.spec(name).shape) != target.l.sizes())
      problems += concat("\n  '", name, "' has another shape than ", target.l.sizes());
    else
      target.l.copy_(weights.read(name));
  }
  for (const auto& name : weights.names())
    if (std::none_of(targets_.begin(), targets_.end(), [&](const Target& target) { return name_of(target.slot) == name; }))
      problems += "\n  '" + name + "' has no place in this model";
  if (!problems.empty()) fail(ErrorCode::Data, "the adapter does not fit the model:", problems);
}

at::Tensor Ia3::merge(const SlotSpec& slot, const at::Tensor& weight) const {
  for (const auto& target : targets_)
    if (target.slot.path == slot.path) return weight * target.l.detach().to(weight.device());
  return weight;
}

}  // namespace ia3
