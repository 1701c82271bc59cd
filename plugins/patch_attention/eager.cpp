#include <ATen/TensorOperators.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh.h>

#include <limits>

#include "attention.h"
#include "tenon/nn/attention.h"
#include "tenon/nn/linear.h"

namespace tenon::attention {

at::Tensor eager(const AttentionArgs& args) {
  const int64_t batch = args.q.size(0), heads = args.q.size(1), tokens = args.q.size(2), kv_heads = args.k.size(1), keys = args.k.size(2);
  const int64_t rows = heads / kv_heads * tokens;
  // The queries of one group as rows of one matrix: keys and values are not repeated.
  at::Tensor scores = nn::matmul(args.q.reshape({batch, kv_heads, rows, args.q.size(3)}), args.k.transpose(2, 3)) * args.scale;
  if (args.softcap > 0) scores = at::tanh(scores / args.softcap) * args.softcap;
  const bool is_windowed = args.window > 0 && args.window < args.past + tokens;
  const bool sees_all = !args.segments.defined() && !is_windowed && (tokens == 1 || !args.causal);
  if (!sees_all) {
    const at::Tensor hidden = nn::attention_mask(args).logical_not();  // [B or 1, 1, T, S]
    scores = scores.view({batch, heads, tokens, keys}).masked_fill(hidden, -std::numeric_limits<double>::infinity());
    scores = scores.view({batch, kv_heads, rows, keys});
  }
  at::Tensor weights = at::softmax(scores, -1, at::kFloat).to(args.q.scalar_type());
  if (args.dropout > 0) weights = at::dropout(weights, args.dropout, true);
  return nn::matmul(weights, args.v).view({batch, heads, tokens, args.v.size(3)});
}

}  // namespace tenon::attention
