#pragma once
// Some rows of an embedding or an output head, trained: those of new tokens (PEFT's trainable_token_indices).
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lora_filler.h"
#include "options.h"
#include "tenon/blueprint.h"
#include "tenon/filler.h"

namespace tenon::lora {

// Of a dotted path.
inline std::string last_name(const std::string& path) { return path.substr(path.rfind('.') + 1); }

// Of one slot: which rows, and whose leaf holds them (a tied head's are its embedding's).
struct TokenRows {
  std::vector<int64_t> ids;
  std::string owner;
};

// Of all slots, by path. Error(Recipe) for ids outside of the vocabulary or named twice, for a name that is no embedding or head, and for a slot
// that modules_to_save trains whole as well. `is_taken`: whether something else adapts a slot, which new_tokens then leaves alone.
struct TokenRowsOf {
  std::map<std::string, TokenRows> slots;
  Value written;  // trainable_token_indices of adapter_config.json; null: none
};
TokenRowsOf find_token_rows(const LoraOptions& options, const Blueprint& blueprint, bool saved,
                            const std::function<bool(const SlotSpec&)>& is_taken);

// The base with rows `ids` replaced by a leaf.
class TokenRowsFiller final : public Filler {
 public:
  // ids: [n] int64; rows: [n, in] float32 leaf; vocabulary: rows of the base.
  TokenRowsFiller(std::shared_ptr<Filler> base, at::Tensor ids, at::Tensor rows, int64_t vocabulary,
                  std::shared_ptr<const Switches> switches);
  std::string describe() const override { return "token_rows(" + base_->describe() + ")"; }
  at::Tensor linear(const at::Tensor& x) override;
  at::Tensor rows(const at::Tensor& ids, at::ScalarType dtype) override;
  at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const override;
  at::Tensor bias() const override { return base_->bias(); }

 private:
  std::shared_ptr<Filler> base_;
  at::Tensor ids_, rows_;
  at::Tensor places_;  // [vocabulary]: index into rows_, -1 for the base's own
  std::shared_ptr<const Switches> switches_;
};

}  // namespace tenon::lora
