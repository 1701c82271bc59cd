#pragma once
// [[patch]] type = "attention": another implementation behind the attention seam, and a window. All of them keep to segments, so that samples packed
// in one row do not see each other, on every architecture that has the seam.
#include <optional>
#include <string>

#include "tenon/options.h"
#include "tenon/patch.h"

namespace tenon::attention {

struct Options {
  std::optional<std::string> implementation;
  std::optional<int64_t> sliding_window;
};
OptionTable option_table();

class AttentionPatch final : public Patch {
 public:
  explicit AttentionPatch(const Options& options) : options_(options) {}
  bool on_seams(Seams& seams) override;

 private:
  Options options_;
};

// Scores in memory, softmax in float32, weights in q's dtype.
at::Tensor eager(const AttentionArgs& args);

// LibTorch's flash attention, a document at a time: its CPU kernel, or on a GPU its kernel for variable lengths, for which q must be bfloat16 or
// float16. Soft caps and dropout, which the kernels do not have, run eager.
at::Tensor flash(const AttentionArgs& args);

}  // namespace tenon::attention
