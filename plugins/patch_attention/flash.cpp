#include <ATen/TensorOperators.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>
#include <map>
#include <vector>

#include "attention.h"
#include "tenon/error.h"
#include "tenon/nn/attention.h"
#include "tenon/nn/linear.h"

namespace tenon::attention {

namespace {

// A stretch of one row: a document, or padding.
struct Stretch {
  int64_t row = 0, first = 0, last = 0;
  bool is_padding = false;
  int64_t length() const { return last - first; }
};

std::vector<Stretch> stretches_of(const AttentionArgs& args) {
  const int64_t rows = args.q.size(0), tokens = args.q.size(2);
  std::vector<Stretch> all;
  if (!args.segments.defined()) {
    for (int64_t r = 0; r < rows; ++r) all.push_back({r, 0, tokens, false});
    return all;
  }
  const at::Tensor segments = args.segments.cpu().contiguous();
  const int64_t* s = segments.const_data_ptr<int64_t>();
  for (int64_t r = 0; r < rows; ++r, s += tokens)
    for (int64_t t = 0; t < tokens; ++t) {
      if (t == 0 || s[t] != s[t - 1]) all.push_back({r, t, t, s[t] == 0});
      all.back().last = t + 1;
    }
  return all;
}

bool is_windowed(const AttentionArgs& args) { return args.window > 0 && args.window < args.past + args.q.size(2); }

// What is added to the scores where causality alone does not say what is seen.
at::Tensor bias_of(const AttentionArgs& args) {
  const at::Tensor mask = nn::attention_mask(args);
  return at::zeros(mask.sizes(), args.q.options().requires_grad(false))
      .masked_fill_(mask.logical_not(), -std::numeric_limits<double>::infinity());
}

at::Tensor cpu_kernel(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool causal, double scale,
                      const at::Tensor& bias = {}) {
  if (nn::is_faster_in_float(q)) return nn::fused_attention(q, k, v, bias, causal, scale);
  return std::get<0>(at::_scaled_dot_product_flash_attention_for_cpu(
      q, k, v, 0.0, causal, bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt, scale));
}

// All documents start and end in this call: each is a problem of its own, and nothing is computed between two of them.
at::Tensor documents_on_cpu(const AttentionArgs& args) {
  const std::vector<Stretch> stretches = stretches_of(args);
  std::map<int64_t, at::Tensor> bands;  // of a window, by length
  auto attend = [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    AttentionArgs one{.q = q, .k = k, .v = v, .scale = args.scale, .causal = args.causal, .window = args.window};
    if (!is_windowed(one)) return cpu_kernel(q, k, v, args.causal, args.scale);
    auto [band, is_new] = bands.try_emplace(q.size(2));
    if (is_new) band->second = bias_of(one);
    return cpu_kernel(q, k, v, false, args.scale, band->second);
  };
  const bool is_plain = static_cast<int64_t>(stretches.size()) == args.q.size(0);  // a document a row
  if (is_plain && std::none_of(stretches.begin(), stretches.end(), [](const Stretch& s) { return s.is_padding; }))
    return attend(args.q, args.k, args.v);
  std::vector<at::Tensor> rows(static_cast<size_t>(args.q.size(0)));
  std::vector<std::vector<at::Tensor>> pieces(rows.size());
  for (const Stretch& s : stretches) {
    auto cut = [&](const at::Tensor& x) { return x.narrow(0, s.row, 1).narrow(2, s.first, s.length()); };
    const at::Tensor q = cut(args.q);
    pieces[static_cast<size_t>(s.row)].push_back(
        s.is_padding ? at::zeros({1, q.size(1), s.length(), args.v.size(3)}, q.options().requires_grad(false))
                     : attend(q, cut(args.k), cut(args.v)));
  }
  for (size_t r = 0; r < rows.size(); ++r) rows[r] = at::cat(pieces[r], 2);
  return at::cat(rows, 0);
}

at::Tensor on_cpu(const AttentionArgs& args) {
  const int64_t tokens = args.q.size(2), keys = args.k.size(2);
  const bool begins_here =
      args.past == 0 && (!args.segments.defined() || args.key_segments.is_same(args.segments) || !args.key_segments.defined());
  if (begins_here && keys == tokens) return documents_on_cpu(args);
  // Behind a cache.
  if (!args.segments.defined() && tokens == 1 && args.causal) {
    const int64_t seen = is_windowed(args) ? args.window : keys;
    return cpu_kernel(args.q, args.k.narrow(2, keys - seen, seen), args.v.narrow(2, keys - seen, seen), false, args.scale);
  }
  if (!args.segments.defined() && !args.causal && !is_windowed(args)) return cpu_kernel(args.q, args.k, args.v, false, args.scale);
  return cpu_kernel(args.q, args.k, args.v, false, args.scale, bias_of(args));
}

// Documents of all rows behind one another, padding left out.
at::Tensor on_gpu(const AttentionArgs& args) {
  if (args.q.scalar_type() != at::kHalf && args.q.scalar_type() != at::kBFloat16)
    fail(ErrorCode::Device, "attention implementation \"flash\" takes bfloat16 or float16 on a GPU, found ",
         c10::toString(args.q.scalar_type()), ": set model.dtype, or use \"sdpa\"");
  const int64_t rows = args.q.size(0), tokens = args.q.size(2), keys = args.k.size(2);
  if (args.segments.defined() && (args.past != 0 || keys != tokens)) return nn::Attention()(args);  // padded prompts behind a cache
  std::vector<int64_t> kept;
  std::vector<int32_t> query_ends{0}, key_ends{0};
  int64_t longest = 0;
  for (const Stretch& s : stretches_of(args)) {
    if (s.is_padding) continue;
    for (int64_t t = s.first; t < s.last; ++t) kept.push_back(s.row * tokens + t);
    query_ends.push_back(query_ends.back() + static_cast<int32_t>(s.length()));
    key_ends.push_back(key_ends.back() + static_cast<int32_t>(args.segments.defined() ? s.length() : keys));
    longest = std::max(longest, s.length());
  }
  const at::Device device = args.q.device();
  const at::Tensor index = at::tensor(kept, at::kLong).to(device);
  const at::Tensor query_borders = at::tensor(query_ends, at::kInt).to(device), key_borders = at::tensor(key_ends, at::kInt).to(device);
  const bool leaves_out = static_cast<int64_t>(kept.size()) != rows * tokens;
  auto flat = [&](const at::Tensor& x) { return x.transpose(1, 2).reshape({-1, x.size(1), x.size(3)}); };
  auto chosen = [&](const at::Tensor& x) { return leaves_out ? flat(x).index_select(0, index) : flat(x); };
  const std::optional<c10::SymInt> left = is_windowed(args) ? std::optional<c10::SymInt>(args.window - 1) : std::nullopt;
  const std::optional<c10::SymInt> right = left && args.causal ? std::optional<c10::SymInt>(0) : std::nullopt;
  at::Tensor y = std::get<0>(at::_flash_attention_forward_symint(chosen(args.q), chosen(args.k), chosen(args.v), query_borders, key_borders,
                                                                 longest, args.segments.defined() ? longest : keys, 0.0, args.causal,
                                                                 /*return_debug_mask=*/false, args.scale, left, right));
  if (leaves_out) y = at::zeros({rows * tokens, y.size(1), y.size(2)}, y.options().requires_grad(false)).index_copy(0, index, y);
  return y.view({rows, tokens, y.size(1), y.size(2)}).transpose(1, 2);
}

}  // namespace

at::Tensor flash(const AttentionArgs& args) {
  if (args.softcap != 0 || args.dropout > 0) return eager(args);
  return args.q.is_cuda() ? on_gpu(args) : on_cpu(args);
}

}  // namespace tenon::attention
