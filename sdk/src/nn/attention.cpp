#include "tenon/nn/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <deque>
#include <limits>
#include <mutex>

#include "decode_attention.h"
#include "float_product.h"
#include "tenon/nn/linear.h"
#include "tenon/nn/loss.h"

namespace tenon::nn {

namespace {
constexpr size_t kMasksKept = 4;  // kinds of layers times devices of one batch

bool windowed(const AttentionArgs& args) { return args.window > 0 && args.window < args.past + args.q.size(2); }

// Every row holds one segment and then, perhaps, padding: causal attention never looks at what comes later, so no mask is needed.
bool padded_behind_only(const AttentionArgs& args) {
  if (!args.causal || args.past != 0 || !args.key_segments.is_same(args.segments)) return false;
  const at::Tensor segments = args.segments.cpu().contiguous();
  const int64_t rows = segments.size(0), tokens = segments.size(1);
  const int64_t* s = segments.const_data_ptr<int64_t>();
  for (int64_t r = 0; r < rows; ++r, s += tokens)
    for (int64_t t = 1; t < tokens; ++t)
      if (s[t] != s[t - 1] && s[t] != 0) return false;
  return true;
}
}  // namespace

at::Tensor attention_mask(const AttentionArgs& args) {
  const int64_t tokens = args.q.size(2), keys = args.k.size(2);
  const auto options = args.q.options().dtype(at::kLong).requires_grad(false);
  const at::Tensor query = at::arange(args.past, args.past + tokens, options).unsqueeze(1), key = at::arange(keys, options).unsqueeze(0);
  at::Tensor mask;
  if (args.causal) mask = key <= query;
  if (windowed(args)) {
    const at::Tensor near = key > query - args.window;
    mask = mask.defined() ? mask & near : near;
  }
  if (!mask.defined()) mask = at::ones({tokens, keys}, options.dtype(at::kBool));
  mask = mask.unsqueeze(0);
  if (args.segments.defined()) {
    const at::Tensor key_segments = args.key_segments.defined() ? args.key_segments : args.segments;
    mask = mask & at::eq(args.segments.unsqueeze(2), key_segments.unsqueeze(1));
  }
  return mask.unsqueeze(1);
}

// One entry answers for one batch and kind of layer: no mask needed beyond causality, or what is added to the scores.
struct Attention::Masks {
  struct Entry {
    at::Tensor segments, key_segments;  // held, so that their identity stays theirs
    int64_t tokens, keys, past, window;
    bool causal;
    at::ScalarType dtype;
    at::Device device;
    bool causal_only;
    at::Tensor bias;  // 0 or -inf, in q's dtype: kept once for all layers' backward passes
  };
  std::mutex mutex;
  std::deque<Entry> entries;

  Entry get(const AttentionArgs& args) {
    const int64_t window = windowed(args) ? args.window : 0;
    const std::lock_guard lock(mutex);
    for (const Entry& e : entries)
      if (e.segments.is_same(args.segments) && e.key_segments.is_same(args.key_segments) && e.tokens == args.q.size(2) &&
          e.keys == args.k.size(2) && e.past == args.past && e.window == window && e.causal == args.causal &&
          e.dtype == args.q.scalar_type() && e.device == args.q.device())
        return e;
    Entry e{args.segments, args.key_segments,    args.q.size(2),  args.k.size(2), args.past, window,
            args.causal,   args.q.scalar_type(), args.q.device(), false,          {}};
    e.causal_only = window == 0 && args.segments.defined() && padded_behind_only(args);
    if (!e.causal_only) {
      const auto options = args.q.options().requires_grad(false);
      const at::Tensor mask = attention_mask(args);
      e.bias = at::zeros(mask.sizes(), options).masked_fill_(mask.logical_not(), -std::numeric_limits<double>::infinity());
    }
    if (entries.size() == kMasksKept) entries.pop_front();
    entries.push_back(e);
    return e;
  }
};

namespace {
// Scores in memory, for what the fused kernels cannot do.
at::Tensor unfused(const AttentionArgs& args, const at::Tensor& bias) {
  const int64_t batch = args.q.size(0), heads = args.q.size(1), tokens = args.q.size(2), kv_heads = args.k.size(1), keys = args.k.size(2);
  // The queries of one group as rows of one matrix: keys and values are not repeated.
  const at::Tensor q = args.q.reshape({batch, kv_heads, heads / kv_heads * tokens, args.q.size(3)});
  at::Tensor scores = nn::matmul(q, args.k.transpose(2, 3)).to(at::kFloat) * args.scale;
  scores = soft_cap(scores, args.softcap);
  if (bias.defined()) scores = (scores.view({batch, heads, tokens, keys}) + bias).view({batch, kv_heads, heads / kv_heads * tokens, keys});
  at::Tensor weights = at::softmax(scores, -1).to(args.q.scalar_type());
  if (args.dropout > 0) weights = at::dropout(weights, args.dropout, true);
  return nn::matmul(weights, args.v).view({batch, heads, tokens, args.v.size(3)});
}

// LibTorch's flash attention of half precision is made of products, which some processors do faster in float32. q, k and v are kept as they come, keys and
// values once for all heads of a group.
struct FloatAttention : torch::autograd::Function<FloatAttention> {
  static at::Tensor of_each_head(const at::Tensor& k, int64_t heads) {
    const at::Tensor in_float = k.to(at::kFloat);
    if (k.size(1) == heads) return in_float;
    return in_float.unsqueeze(2).expand({-1, -1, heads / k.size(1), -1, -1}).reshape({k.size(0), heads, k.size(2), k.size(3)});
  }
  static at::Tensor of_group(const at::Tensor& dk, int64_t kv_heads) {
    return dk.size(1) == kv_heads ? dk : dk.view({dk.size(0), kv_heads, -1, dk.size(2), dk.size(3)}).sum(2);
  }
  static std::optional<at::Tensor> mask(const at::Tensor& bias) {
    return bias.defined() ? std::optional<at::Tensor>(bias.to(at::kFloat)) : std::nullopt;
  }
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const std::optional<at::Tensor>& given, bool causal, double scale) {
    const at::Tensor bias = given.value_or(at::Tensor());
    const auto [y, log_sum] = at::_scaled_dot_product_flash_attention_for_cpu(q.to(at::kFloat), of_each_head(k, q.size(1)),
                                                                              of_each_head(v, q.size(1)), 0.0, causal, mask(bias), scale);
    const at::Tensor result = y.to(q.scalar_type());
    ctx->save_for_backward({q, k, v, bias, result, log_sum});
    ctx->saved_data["causal"] = causal;
    ctx->saved_data["scale"] = scale;
    return result;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, torch::autograd::variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        grads[0].to(at::kFloat), q.to(at::kFloat), of_each_head(k, q.size(1)), of_each_head(v, q.size(1)), saved[4].to(at::kFloat),
        saved[5], 0.0, ctx->saved_data["causal"].toBool(), mask(saved[3]), ctx->saved_data["scale"].toDouble());
    const at::ScalarType dtype = q.scalar_type();
    return {dq.to(dtype), of_group(dk, k.size(1)).to(dtype), of_group(dv, v.size(1)).to(dtype), {}, {}, {}};
  }
};
}  // namespace

at::Tensor fused_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& bias, bool causal, double scale,
                           double dropout) {
  const std::optional<at::Tensor> mask = bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt;
  if (is_faster_in_float(q) && dropout == 0 && q.size(3) == v.size(3) && q.numel() > 0 && k.numel() > 0)
    return FloatAttention::apply(q, k, v, mask, causal, scale);
  return at::scaled_dot_product_attention(q, k, v, mask, dropout, causal, scale, /*enable_gqa=*/q.size(1) != k.size(1));
}

namespace {
at::Tensor fused(const AttentionArgs& args, const at::Tensor& k, const at::Tensor& v, const at::Tensor& bias, bool causal) {
  const int64_t batch = args.q.size(0), heads = args.q.size(1), tokens = args.q.size(2), kv_heads = k.size(1);
  if (tokens == 1 && args.dropout == 0)
    if (at::Tensor y = decode_attention(args.q, k, v, bias, args.scale); y.defined()) return y;
  if (tokens == 1 && heads != kv_heads) {
    // The queries of one group stand as tokens over its one key head: each key is read once.
    const at::Tensor grouped = args.q.reshape({batch, kv_heads, heads / kv_heads, args.q.size(3)});
    return fused_attention(grouped, k, v, bias, false, args.scale, args.dropout).reshape({batch, heads, 1, v.size(3)});
  }
  return fused_attention(args.q, k, v, bias, causal, args.scale, args.dropout);
}
}  // namespace

Attention::Attention() : masks_(std::make_shared<Masks>()) {}

at::Tensor Attention::operator()(const AttentionArgs& args) const {
  const int64_t tokens = args.q.size(2), keys = args.k.size(2);
  if (!args.segments.defined() && args.softcap == 0) {
    if (tokens == 1 && args.causal) {
      // The newest query sees every key, or the last `window` of them.
      if (!windowed(args)) return fused(args, args.k, args.v, {}, false);
      return fused(args, args.k.narrow(2, keys - args.window, args.window), args.v.narrow(2, keys - args.window, args.window), {}, false);
    }
    if (!windowed(args) && (!args.causal || args.past == 0)) return fused(args, args.k, args.v, {}, args.causal);
  }
  const bool maskless = !args.segments.defined() && !args.causal && !windowed(args);
  const Masks::Entry entry = maskless ? Masks::Entry{{}, {}, 0, 0, 0, 0, false, at::kFloat, at::kCPU, false, {}} : masks_->get(args);
  if (args.softcap == 0) return fused(args, args.k, args.v, entry.bias, entry.causal_only);
  at::Tensor bias = entry.bias;
  if (entry.causal_only) {
    AttentionArgs plain = args;
    plain.segments = plain.key_segments = at::Tensor();
    bias = masks_->get(plain).bias;
  }
  return unfused(args, bias);
}

}  // namespace tenon::nn
