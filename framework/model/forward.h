#pragma once
// One pass through a model: begin, every block of every stack, finish.
#include "tenon/model.h"

namespace tenon::host {

// -> [B, T, hidden] after the final norm. Records autograd only if the caller's grad mode is on; training uses train/tape.h instead.
at::Tensor forward_hidden(Model& model, const Batch& batch, Cache* cache = nullptr);

// -> [B, T, vocab] float32.
at::Tensor forward_logits(Model& model, const Batch& batch, Cache* cache = nullptr);

}  // namespace tenon::host
