#pragma once
// (IA)^3, Liu et al. 2022 (arXiv 2205.05638): vectors that multiply what attention's keys and values give and what the feed-forward layer takes.
// Files, names and arithmetic are PEFT's.
#include "tenon/adapter.h"

namespace ia3 {

struct Options {
  tenon::Value target_modules;       // a list of names, a regular expression, or absent: PEFT's choice for the model
  tenon::Value feedforward_modules;  // likewise; those among the targets whose input is scaled
  bool init_ia3_weights = true;      // ones: a fresh adapter changes nothing
};

struct Target {
  tenon::SlotSpec slot;
  at::Tensor l;  // [1, in] of a feed-forward layer, [out, 1] of the others
  bool is_feedforward = false;
};

class Ia3 final : public tenon::Adapter {
 public:
  explicit Ia3(const Options& options) : options_(options) {}

  std::vector<std::string> targets(const tenon::Blueprint& blueprint) const override;
  std::vector<tenon::TensorSpec> parameters(const tenon::SlotSpec& slot) const override;
  double activation_elements(const tenon::SlotSpec& slot) const override;
  std::shared_ptr<tenon::Filler> wrap(const tenon::SlotSpec& slot, std::shared_ptr<tenon::Filler> base, at::Device device,
                                      bool trainable) override;
  std::vector<tenon::AdapterParameter> state() const override;
  void set_enabled(bool enabled) override { *enabled_ = enabled; }
  void set_training(bool) override {}  // no dropout
  tenon::Value config(const std::string& base_model) const override;
  void configure(const tenon::Value& saved_config) override;
  void load(const tenon::TensorSource& weights) override;
  at::Tensor merge(const tenon::SlotSpec& slot, const at::Tensor& weight) const override;

 private:
  bool is_feedforward(const std::string& path) const;

  Options options_;
  mutable tenon::Value feedforward_;  // the rule in effect, once the model is known
  mutable tenon::Value targets_rule_;
  std::vector<Target> targets_;
  std::shared_ptr<bool> enabled_ = std::make_shared<bool>(true);
};

}  // namespace ia3
