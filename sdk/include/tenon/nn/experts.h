#pragma once
// Mixture of experts: which experts a token goes to, and the way of the tokens through them and back.
#include <ATen/core/Tensor.h>

#include <functional>

#include "tenon/export.h"
#include "tenon/model.h"

namespace tenon::nn {

// The default of the router seam: softmax over all experts in float32, then the top_k largest.
TENON_API Routing route(const RouterArgs& args);

// Calls body(expert, first row, rows) for each expert that has rows; offsets: [count + 1] int64 on the CPU, the experts' first rows.
template <class Body>
void for_each_expert(const at::Tensor& offsets, Body&& body) {
  const int64_t* first = offsets.const_data_ptr<int64_t>();
  for (int64_t e = 0; e + 1 < offsets.numel(); ++e)
    if (const int64_t rows = first[e + 1] - first[e]; rows > 0) body(e, first[e], rows);
}

// x: [tokens, in], sorted by expert; offsets as above; weight: [count, out, in] -> [tokens, out].
TENON_API at::Tensor grouped_linear(const at::Tensor& x, const at::Tensor& offsets, const at::Tensor& weight);

// x: [tokens, width] -> [tokens, width of what `experts` returns], in x's dtype: each token's outputs times its weights, added in float32.
// experts(sorted, offsets): a row for each pair of token and expert, sorted by expert, offsets as above.
using ExpertsFn = std::function<at::Tensor(const at::Tensor& sorted, const at::Tensor& offsets)>;
TENON_API at::Tensor mix_experts(const at::Tensor& x, const Routing& routing, int64_t count, const ExpertsFn& experts);

// Load balance over all layers, equations (4) to (6) of Switch Transformers (arXiv 2101.03961) as transformers computes them: count_routed adds
// one layer's tokens and probabilities to the state's extras, padding (segment 0) left out; balance_loss is the product of their means.
TENON_API void count_routed(State& state, const at::Tensor& logits, const Routing& routing);
TENON_API at::Tensor balance_loss(const State& state);

}  // namespace tenon::nn
