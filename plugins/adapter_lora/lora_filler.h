#pragma once
// Fillers that add a low-rank update to what another filler computes.
#include <memory>

#include "tenon/filler.h"

namespace tenon::lora {

// Shared by all fillers of one adapter.
struct Switches {
  bool enabled = true, training = false;
};

// A frozen tensor in another dtype, made once. What is trained is cast anew each time: fused optimizers change a leaf without counting its
// version up.
class CastCache {
 public:
  const at::Tensor& get(const at::Tensor& leaf, at::ScalarType dtype);

 private:
  at::Tensor tensor_;
  uint32_t version_ = 0;
};

struct LowRank {
  at::Tensor a, b;       // float32 leaves. Linear: [r, in] and [out, r]; embedding: [r, rows] and [width, r]
  at::Tensor magnitude;  // [out] float32, DoRA only
  double scaling = 1, dropout = 0;
};

// y = base(x) + scaling * dropout(x) a^T b^T. The product runs in x's dtype (what PEFT does under autocast); gradients of a and b are float32.
// With a magnitude m: y = base(x) + (m/n - 1) W x + (m/n) scaling b a x, n the norms of the rows of W + scaling b a, taken as constants (DoRA).
class LoraLinear final : public Filler {
 public:
  LoraLinear(std::shared_ptr<Filler> base, LowRank update, std::shared_ptr<const Switches> switches);
  std::string describe() const override;
  at::Tensor linear(const at::Tensor& x) override;
  std::vector<at::Tensor> linear_many(std::span<Filler* const> group, const at::Tensor& x) override;
  at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const override;
  at::Tensor bias() const override { return base_->bias(); }

  const LowRank& update() const { return update_; }
  // DoRA: norms of the rows of W + scaling b a, from small products alone: |W|^2 is kept, W a^T costs r inputs.
  at::Tensor row_norms() const;
  // DoRA: once b and a hold their starting values.
  void start_magnitude();

 private:
  at::Tensor add_update(const at::Tensor& x, at::Tensor y);
  at::Tensor add_direction(const at::Tensor& x, const at::Tensor& y);

  std::shared_ptr<Filler> base_;
  LowRank update_;
  std::shared_ptr<const Switches> switches_;
  at::Tensor square_norms_;  // DoRA: of the rows of W, [out] float32
  CastCache cast_a_, cast_b_;
};

// rows(ids) = base(ids) + scaling * (a^T)[ids] b^T, computed in float32; no dropout.
class LoraEmbedding final : public Filler {
 public:
  LoraEmbedding(std::shared_ptr<Filler> base, LowRank update, std::shared_ptr<const Switches> switches);
  std::string describe() const override;
  at::Tensor rows(const at::Tensor& ids, at::ScalarType dtype) override;
  at::Tensor linear(const at::Tensor& x) override { return base_->linear(x); }  // a tied head sees the base weight, as in PEFT
  at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const override;

 private:
  std::shared_ptr<Filler> base_;
  LowRank update_;
  std::shared_ptr<const Switches> switches_;
};

// weight [out, in] float32 with the update added: what merging means.
at::Tensor merged(const LowRank& update, bool is_embedding, const at::Tensor& weight);

}  // namespace tenon::lora
