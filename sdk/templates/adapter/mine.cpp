// y = base(x) * (1 + v): one trained number for each output of a layer.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "tenon/plugin.h"

namespace {

using namespace tenon;

struct MineOptions {
  std::vector<std::string> target_modules = {"q_proj", "v_proj"};
};

class Scaled final : public Filler {
 public:
  Scaled(std::shared_ptr<Filler> base, at::Tensor v, std::shared_ptr<bool> on)
      : base_(std::move(base)), v_(std::move(v)), on_(std::move(on)) {}
  std::string describe() const override { return "mine(" + base_->describe() + ")"; }
  at::Tensor linear(const at::Tensor& x) override {
    const at::Tensor y = base_->linear(x);
    return *on_ ? y * (v_ + 1).to(y.scalar_type()) : y;
  }
  at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const override {
    const at::Tensor rows = base_->dense_rows(dtype, first, last);
    return *on_ ? (rows * (v_.detach() + 1).narrow(0, first, last - first).unsqueeze(1)).to(dtype) : rows;
  }
  at::Tensor bias() const override {
    const at::Tensor bias = base_->bias();
    return *on_ && bias.defined() ? (bias * (v_.detach() + 1)).to(bias.scalar_type()) : bias;
  }

 private:
  std::shared_ptr<Filler> base_;
  at::Tensor v_;
  std::shared_ptr<bool> on_;
};

class Mine final : public Adapter {
 public:
  explicit Mine(const MineOptions& options) : names_(options.target_modules) {}

  std::vector<std::string> targets(const Blueprint& blueprint) const override {
    std::vector<std::string> paths;
    for (const auto& slot : blueprint.slots)
      if (slot.kind == SlotKind::Linear &&
          std::any_of(names_.begin(), names_.end(), [&](const std::string& name) { return slot.path.ends_with("." + name); }))
        paths.push_back(slot.path);
    if (paths.empty()) fail(ErrorCode::Recipe, "target_modules of adapter mine name no layer of this model");
    return paths;
  }
  std::vector<TensorSpec> parameters(const SlotSpec& slot) const override { return {{slot.path + ".mine_v", {slot.out}, at::kFloat}}; }
  double activation_elements(const SlotSpec& slot) const override { return static_cast<double>(slot.out); }  // y, for v's gradient
  std::shared_ptr<Filler> wrap(const SlotSpec& slot, std::shared_ptr<Filler> base, at::Device device, bool trainable) override {
    const at::Tensor v = at::zeros({slot.out}, at::TensorOptions(device).dtype(at::kFloat)).set_requires_grad(trainable);
    state_.push_back({slot.path + ".mine_v", v});
    return std::make_shared<Scaled>(std::move(base), v, on_);
  }
  std::vector<AdapterParameter> state() const override { return state_; }
  void set_enabled(bool enabled) override { *on_ = enabled; }
  void set_training(bool) override {}  // no dropout

  Value config(const std::string& base_model) const override {
    return Value(Value::Table{{"peft_type", "MINE"}, {"base_model_name_or_path", base_model}, {"target_modules", names_}});
  }
  void configure(const Value& saved) override {
    if (saved.string_or("peft_type", "") != "MINE") fail(ErrorCode::Data, "peft_type is not MINE: another adapter wrote this folder");
    names_.clear();
    for (const auto& name : saved.at("target_modules").as_list()) names_.push_back(name.as_string());
  }
  void load(const TensorSource& weights) override {
    at::NoGradGuard no_grad;
    for (auto& [name, tensor] : state_) {
      if (!weights.has(name)) fail(ErrorCode::Data, "'", name, "' is missing");
      tensor.copy_(weights.read(name));
    }
    for (const auto& found : weights.names())
      if (std::none_of(state_.begin(), state_.end(), [&](const AdapterParameter& p) { return p.name == found; }))
        fail(ErrorCode::Data, "'", found, "' has no place in this model");
  }
  at::Tensor merge(const SlotSpec& slot, const at::Tensor& weight) const override {
    for (const auto& [name, v] : state_)
      if (name == slot.path + ".mine_v") return weight * (v.detach().to(weight.device()) + 1).unsqueeze(1);
    return weight;
  }

 private:
  std::vector<std::string> names_;
  std::vector<AdapterParameter> state_;
  std::shared_ptr<bool> on_ = std::make_shared<bool>(true);
};

}  // namespace

TENON_PLUGIN(.id = "org.example.mine", .version = "0.1.0", .license = "Apache-2.0", .provides = {"adapter:mine"})

TENON_REGISTER(tenon::Registrar& registrar) {
  registrar.adapter<MineOptions, Mine>(
      "mine", "A trained factor for each output.",
      option_table<MineOptions>({option(&MineOptions::target_modules, "target_modules", "Last names of the layers that it wraps.")}));
}
