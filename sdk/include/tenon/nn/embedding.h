#pragma once
// Token embeddings.
#include <ATen/core/Tensor.h>

#include "tenon/export.h"
#include "tenon/seams.h"

namespace tenon::nn {

// Error(Data) for a batch that is no [B, T] int64 with T > 0, or has an id outside [0, vocab). Ids on a GPU are not looked at.
TENON_API void check_ids(const at::Tensor& ids, int64_t vocab);

// The default of the embedding seam.
TENON_API at::Tensor embed(const EmbeddingArgs& args);

}  // namespace tenon::nn
