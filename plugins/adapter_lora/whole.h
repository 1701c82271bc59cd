#pragma once
// Fillers that train what PEFT trains beside its low-rank updates: biases, and whole modules (modules_to_save).
#include <memory>

#include "lora_filler.h"
#include "tenon/filler.h"

namespace tenon::lora {

// base(x) with `bias` instead of the base's own: the slot has one.
class BiasFiller final : public Filler {
 public:
  // bias: [out] float32 leaf.
  BiasFiller(std::shared_ptr<Filler> base, at::Tensor bias, std::shared_ptr<const Switches> switches);
  std::string describe() const override { return "bias(" + base_->describe() + ")"; }
  at::Tensor linear(const at::Tensor& x) override;
  std::vector<at::Tensor> linear_many(std::span<Filler* const> group, const at::Tensor& x) override;
  at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const override;
  at::Tensor bias() const override { return switches_->enabled ? bias_ : base_->bias(); }

 private:
  at::Tensor exchange_bias(at::Tensor y) const;

  std::shared_ptr<Filler> base_;
  at::Tensor bias_;
  std::shared_ptr<const Switches> switches_;
};

// A trained copy in the base's place; products run in x's dtype. Whatever is tied to the base keeps the base's weight, as in PEFT.
class WholeFiller final : public Filler {
 public:
  // weight: [out, in] float32 leaf; bias: [out] float32 leaf, undefined where the base has none.
  WholeFiller(std::shared_ptr<Filler> base, at::Tensor weight, at::Tensor bias, std::shared_ptr<const Switches> switches);
  std::string describe() const override { return "trained(" + base_->describe() + ")"; }
  at::Tensor linear(const at::Tensor& x) override;
  at::Tensor rows(const at::Tensor& ids, at::ScalarType dtype) override;
  at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const override;
  at::Tensor bias() const override { return switches_->enabled ? bias_ : base_->bias(); }

 private:
  std::shared_ptr<Filler> base_;
  at::Tensor weight_, bias_;
  std::shared_ptr<const Switches> switches_;
  CastCache cast_;
};

}  // namespace tenon::lora
