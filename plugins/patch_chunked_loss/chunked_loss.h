#pragma once
// [[patch]] type = "chunked_loss": cross-entropy without the logits of a whole batch. Tokens go through the output head a chunk at a time; the backward
// pass computes each chunk's logits again. Same values, one more product with the head, and memory for `chunk_size` rows of logits instead of all.
#include "tenon/options.h"
#include "tenon/patch.h"

namespace tenon::chunked_loss {

struct Options {
  int64_t chunk_size = 512;
};
OptionTable option_table();

class ChunkedLoss final : public Patch {
 public:
  explicit ChunkedLoss(const Options& options) : options_(options) {}
  bool on_blueprint(Blueprint& blueprint) override;
  bool on_seams(Seams& seams) override;

 private:
  Options options_;
};

using LossFn = Seam<LossArgs, at::Tensor>::Fn;
// What `whole` gives for these arguments, with chunks of `chunk` tokens.
at::Tensor in_chunks(const LossArgs& args, const LossFn& whole, int64_t chunk);

}  // namespace tenon::chunked_loss
