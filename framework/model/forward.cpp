#include "model/forward.h"

namespace tenon::host {

at::Tensor forward_hidden(Model& model, const Batch& batch, Cache* cache) {
  State state = model.begin(batch, cache);
  const auto& stacks = model.blueprint().stacks;
  for (size_t s = 0; s < stacks.size(); ++s)
    for (int64_t i = 0; i < stacks[s].count; ++i) model.run_block(static_cast<int>(s), i, state);
  return model.finish(state);
}

at::Tensor forward_logits(Model& model, const Batch& batch, Cache* cache) { return model.logits(forward_hidden(model, batch, cache)); }

}  // namespace tenon::host
