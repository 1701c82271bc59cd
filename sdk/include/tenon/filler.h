#pragma once
// What fills a slot at run time: a dense weight, a quantized one, or an adapter around either. Fillers are autograd-aware;
// blocks call them and never see weights.
#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tenon/export.h"
#include "tenon/slot.h"

namespace tenon {

class TENON_API Filler {
 public:
  virtual ~Filler();
  // A short description for the plan and for errors: "nf4", "dense bfloat16", "lora(nf4)".
  virtual std::string describe() const = 0;

  // x: [..., in] -> [..., out], bias included, in x's dtype. Defaults of all three: Error(Internal) naming the slot kind.
  virtual at::Tensor linear(const at::Tensor& x);
  // The outputs of several fillers, this one first, that read the same x. Default: one after another; a filler that can do them in one
  // call does so when all are of its kind.
  virtual std::vector<at::Tensor> linear_many(std::span<Filler* const> group, const at::Tensor& x);
  // ids: [...] int64 -> [..., in] in `dtype`.
  virtual at::Tensor rows(const at::Tensor& ids, at::ScalarType dtype);
  // x: [tokens, in] sorted by expert, offsets: [count + 1] int64 -> [tokens, out].
  virtual at::Tensor grouped(const at::Tensor& x, const at::Tensor& offsets);

  // Rows [first, last) of the weight as it acts now, without autograd: [rows, in]. For merging, export and checks.
  virtual at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const = 0;
  // As it acts now, like the weight: what scales outputs scales it. Undefined when the slot has none.
  virtual at::Tensor bias() const { return {}; }
};

// The place itself. Architectures keep references to slots; the host fills them, adapters replace the filler.
class TENON_API Slot {
 public:
  explicit Slot(SlotSpec spec) : spec_(std::move(spec)) {}
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;

  const SlotSpec& spec() const { return spec_; }
  bool is_filled() const { return filler_ != nullptr; }
  Filler& filler() const;  // Error(Internal) naming the path while empty
  const std::shared_ptr<Filler>& filler_ptr() const { return filler_; }
  void fill(std::shared_ptr<Filler> filler) { filler_ = std::move(filler); }

  at::Tensor linear(const at::Tensor& x) const { return filler().linear(x); }
  at::Tensor rows(const at::Tensor& ids, at::ScalarType dtype) const { return filler().rows(ids, dtype); }

 private:
  SlotSpec spec_;
  std::shared_ptr<Filler> filler_;
};

// A tensor that is no slot, while the model runs. `value` may be trainable.
struct Dense {
  DenseSpec spec;
  at::Tensor value;
};

// Multiplies one x with several slots (q, k, v), fused where their fillers can.
TENON_API std::vector<at::Tensor> linear_many(std::initializer_list<const Slot*> slots, const at::Tensor& x);

}  // namespace tenon
