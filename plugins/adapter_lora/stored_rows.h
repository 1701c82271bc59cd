#pragma once
// Rows of embeddings and output heads that an adapter's file brings along. PEFT writes them beside the updates where the vocabulary was resized or an
// embedding is a target, and they take the place of the base's, whether the adapter is on or off.
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "lora_filler.h"
#include "options.h"
#include "tenon/blueprint.h"
#include "tenon/filler.h"

namespace tenon::lora {

inline constexpr const char* kKeyPrefix = "base_model.model.";

// Module paths under which files may know a slot: its own, those of its layouts in checkpoints, and either with or without the outer "model."
// (an adapter trained on the bare backbone lacks it).
std::vector<std::string> known_paths(const SlotSpec& slot);

// Whether a file's rows may replace this slot's.
bool may_be_stored(const SlotSpec& slot);

// Whether the file has a tensor of this name (options.stored_tensors).
bool names_tensor(const LoraOptions& options, const std::string& name);

// Paths of embeddings and heads whose base's rows the file holds (options.stored_tensors), and of what is tied to them. `is_whole`: whether a slot is
// trained whole, so that its ".weight" is no base's.
std::set<std::string> stored_slots(const LoraOptions& options, const Blueprint& blueprint,
                                   const std::function<bool(const SlotSpec&)>& is_whole);

// The base until replace(), then a dense weight.
class StoredRowsFiller final : public Filler {
 public:
  explicit StoredRowsFiller(std::shared_ptr<Filler> base) : base_(std::move(base)) {}
  std::string describe() const override { return base_ ? base_->describe() : "stored rows"; }
  at::Tensor linear(const at::Tensor& x) override;
  at::Tensor rows(const at::Tensor& ids, at::ScalarType dtype) override;
  at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const override;
  at::Tensor bias() const override { return base_ ? base_->bias() : bias_; }

  // weight: [out, in]. The base's memory is free afterwards, where nobody else holds it.
  void replace(at::Tensor weight);
  const at::Tensor& weight() const { return weight_; }  // undefined before

 private:
  std::shared_ptr<Filler> base_;
  at::Tensor weight_, bias_;
  CastCache cast_;
};

}  // namespace tenon::lora
