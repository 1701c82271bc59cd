#include "tenon/nn/embedding.h"

namespace tenon::nn {

void check_ids(const at::Tensor& ids, int64_t vocab) {
  if (!ids.defined() || ids.dim() != 2 || ids.scalar_type() != at::kLong || ids.numel() == 0)
    fail(ErrorCode::Data, "token ids are not a [batch, time] tensor of int64 with at least one token");
  if (!ids.is_cpu()) return;
  const at::Tensor flat = ids.contiguous();
  const int64_t* id = flat.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < flat.numel(); ++i)
    if (id[i] < 0 || id[i] >= vocab) fail(ErrorCode::Data, "token id ", id[i], " is outside the vocabulary of ", vocab);
}

at::Tensor embed(const EmbeddingArgs& args) { return args.slot->rows(args.ids, args.dtype); }

}  // namespace tenon::nn
