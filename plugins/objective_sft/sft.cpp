#include "sft.h"

#include <ATen/ops/neg.h>
#include <ATen/ops/sum.h>

namespace tenon::sft {

ObjectiveResult Sft::step(ObjectiveContext& context, const TrainBatch& batch) {
  const at::Tensor logprobs = context.token_logprobs(batch).logprobs;
  return {at::neg(at::sum(logprobs)), static_cast<double>(logprobs.numel()), {}};
}

}  // namespace tenon::sft
