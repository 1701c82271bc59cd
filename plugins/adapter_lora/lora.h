#pragma once
// LoRA (Hu et al., arXiv:2106.09685) with PEFT's options, files and parameter names; rank-stabilised scaling (arXiv:2312.03732) and
// DoRA (arXiv:2402.09353) as PEFT has them.
#include <memory>
#include <string>
#include <vector>

#include "lora_filler.h"
#include "options.h"
#include "stored_rows.h"
#include "targets.h"
#include "tenon/adapter.h"

namespace tenon::lora {

class Lora final : public Adapter {
 public:
  explicit Lora(const LoraOptions& options);

  std::vector<std::string> targets(const Blueprint& blueprint) const override;
  std::vector<std::string> modules_to_save(const Blueprint& blueprint) const override;
  std::vector<TensorSpec> parameters(const SlotSpec& slot) const override;
  double activation_elements(const SlotSpec& slot) const override;
  std::shared_ptr<Filler> wrap(const SlotSpec& slot, std::shared_ptr<Filler> base, at::Device device, bool trainable) override;
  std::vector<AdapterParameter> state() const override;
  void set_enabled(bool enabled) override { switches_->enabled = enabled; }
  void set_training(bool training) override { switches_->training = training; }
  Value config(const std::string& base_model) const override;
  void configure(const Value& saved_config) override;
  void load(const TensorSource& weights) override;
  at::Tensor merge(const SlotSpec& slot, const at::Tensor& weight) const override;

 private:
  // Leaves that a target does not have are undefined.
  struct Target {
    SlotSpec slot;
    LowRank update;
    at::Tensor weight, bias;  // float32; weight: of a module that is trained whole
    at::Tensor ids, rows;     // of trained rows; a tied head's belong to its embedding
    std::shared_ptr<Filler> base;
    std::shared_ptr<StoredRowsFiller> stored;  // of a continued adapter's embedding or head: its base, which the file may replace
    at::Device device = at::kCPU;
  };
  const Target* find(const std::string& path) const;
  // Its leaves and their names in the file.
  std::vector<AdapterParameter> leaves_of(const Target& target) const;
  // Takes what a file says of a base's rows; the problem, or "".
  std::string replace_base(const Target& target, const at::Tensor& rows) const;
  std::string stored_name(const Target& target) const;
  std::string bias_name(const SlotSpec& slot) const;  // empty: not trained
  std::shared_ptr<Filler> add_token_rows(Target& target, std::shared_ptr<Filler> base, const at::TensorOptions& options) const;
  std::shared_ptr<Filler> add_low_rank(Target& target, std::shared_ptr<Filler> base, const at::TensorOptions& options) const;
  void initialise(LowRank& update, bool is_embedding) const;

  LoraOptions options_;
  Value saved_config_;
  std::shared_ptr<Switches> switches_ = std::make_shared<Switches>();
  std::vector<Target> targets_;
  mutable TargetSet found_;  // of the last targets()
};

}  // namespace tenon::lora
