// The parts of tenon/nn against the same mathematics written out with LibTorch operations, forward and backward.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "support/tiny_model.h"
#include "tenon/nn/activation.h"
#include "tenon/nn/attention.h"
#include "tenon/nn/dropout.h"
#include "tenon/nn/embedding.h"
#include "tenon/nn/experts.h"
#include "tenon/nn/kv_cache.h"
#include "tenon/nn/linear.h"
#include "tenon/nn/loss.h"
#include "tenon/nn/norm.h"
#include "tenon/nn/rotary.h"

namespace tenon::nn {
namespace {

// The cases are too small for several threads. Kernels that divide their work are compared across thread counts at the end.
struct OneThread {
  OneThread() { at::set_num_threads(1); }
} one_thread;

// max|a - b| / max|b|, in float64.
double error(const at::Tensor& a, const at::Tensor& b) {
  REQUIRE(a.sizes() == b.sizes());
  const at::Tensor difference = (a.detach().to(at::kDouble) - b.detach().to(at::kDouble)).abs();
  return difference.max().item<double>() / std::max(1e-12, b.detach().to(at::kDouble).abs().max().item<double>());
}

using Function = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

// Runs both on leaves of the same values and compares the outputs and, under one random weighting of the output, all gradients.
void check_same(const Function& ours, const Function& reference, const std::vector<at::Tensor>& inputs, double tolerance) {
  std::vector<std::vector<at::Tensor>> gradients;
  std::vector<at::Tensor> outputs;
  at::Tensor weights;
  for (const Function& function : {ours, reference}) {
    std::vector<at::Tensor> leaves;
    for (const at::Tensor& input : inputs) leaves.push_back(input.detach().clone().requires_grad_(input.is_floating_point()));
    at::Tensor y = function(leaves);
    if (!weights.defined()) weights = at::randn(y.sizes());
    (y.to(at::kFloat) * weights).sum().backward();
    gradients.emplace_back();
    for (const at::Tensor& leaf : leaves)
      if (leaf.requires_grad()) gradients.back().push_back(leaf.grad());
    outputs.push_back(y);
  }
  CHECK((outputs[0].scalar_type() == outputs[1].scalar_type()));
  CHECK(error(outputs[0], outputs[1]) <= tolerance);
  for (size_t i = 0; i < gradients[0].size(); ++i) CHECK(error(gradients[0][i], gradients[1][i]) <= tolerance);
  std::vector<at::Tensor> plain;
  for (const at::Tensor& input : inputs) plain.push_back(input.clone());
  const c10::NoGradGuard no_grad;
  CHECK(error(ours(plain), outputs[0]) <= tolerance);
}

// What one rounding to the type may change, doubled: both sides round, at different places.
double resolution(at::ScalarType dtype) { return dtype == at::kFloat ? 2e-6 : dtype == at::kHalf ? 4e-3 : 2e-2; }

at::Tensor norm_written_out(const at::Tensor& x, const at::Tensor& weight, double eps, at::ScalarType out) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor normal = (wide * at::rsqrt(wide.pow(2).mean({-1}, true) + eps)).to(x.scalar_type());
  return (weight.to(at::kFloat) * normal.to(at::kFloat)).to(out);
}

TEST_CASE("the rms norm equals its definition, in each dtype, at widths that are no multiple of the vector") {
  at::manual_seed(1);
  struct Case {
    at::ScalarType x, weight, out;
  };
  for (const Case& c : {Case{at::kFloat, at::kFloat, at::kFloat}, Case{at::kFloat, at::kFloat, at::kBFloat16},
                        Case{at::kFloat, at::kFloat, at::kHalf}, Case{at::kBFloat16, at::kBFloat16, at::kBFloat16},
                        Case{at::kHalf, at::kHalf, at::kHalf}, Case{at::kBFloat16, at::kFloat, at::kFloat}})
    for (int64_t width : {1, 16, 33, 200}) {
      CAPTURE(width);
      const auto ours = [&](const std::vector<at::Tensor>& in) { return rms_norm(in[0], in[1], 1e-5, c.out); };
      const auto written_out = [&](const std::vector<at::Tensor>& in) { return norm_written_out(in[0], in[1], 1e-5, c.out); };
      check_same(ours, written_out, {at::randn({2, 90, width}).to(c.x), at::randn({width}).to(c.weight)},
                 resolution(c.out == at::kFloat ? c.x : c.out));
    }
}

TEST_CASE("the rms norm takes rows that are not contiguous, zeros and large values") {
  at::manual_seed(2);
  const at::Tensor x = at::randn({3, 20, 5}).transpose(1, 2), weight = at::randn({20});
  CHECK(error(rms_norm(x, weight, 1e-6, at::kFloat), norm_written_out(x, weight, 1e-6, at::kFloat)) < 1e-6);
  CHECK(rms_norm(at::zeros({2, 20}), weight, 1e-6, at::kFloat).abs().max().item<float>() == 0);
  CHECK(rms_norm(at::randn({2, 20}) * 1e18, weight, 1e-6, at::kFloat).isfinite().all().item<bool>());
  CHECK_THROWS_AS(rms_norm(x, at::randn({19}), 1e-6, at::kFloat), Error);
}

at::Tensor turned(const at::Tensor& x, const Rotary& r) {
  const int64_t dim = r.cos.size(-1);
  const at::Tensor part = x.narrow(-1, 0, dim).to(at::kFloat);
  const at::Tensor half = at::cat({-part.narrow(-1, dim / 2, dim / 2), part.narrow(-1, 0, dim / 2)}, -1);
  return at::cat({(part * r.cos.unsqueeze(2) + half * r.sin.unsqueeze(2)).to(x.scalar_type()), x.narrow(-1, dim, x.size(-1) - dim)}, -1);
}

TEST_CASE("rotation equals its definition, forward and back, whole heads and parts of heads") {
  at::manual_seed(3);
  for (at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf})
    for (auto [head_dim, rotary_dim] : {std::pair{2, 2}, {10, 10}, {64, 64}, {80, 80}, {24, 8}}) {
      const RotaryArgs args{
          .positions = at::randint(0, 5000, {1, 2, 7}, at::kLong), .inv_freq = at::rand({rotary_dim / 2}), .attention_scaling = 1.25};
      const Rotary tables = rotary_tables(args);
      const at::Tensor angles = args.positions[0].to(at::kFloat).unsqueeze(-1) * args.inv_freq;
      CHECK(error(tables.cos, at::cat({angles, angles}, -1).cos() * 1.25) < 1e-6);
      CHECK(error(tables.sin, at::cat({angles, angles}, -1).sin() * 1.25) < 1e-6);
      const at::Tensor x = at::randn({2, 7, 3, head_dim}).to(dtype);
      check_same([&](const std::vector<at::Tensor>& in) { return apply_rotary(in[0], tables); },
                 [&](const std::vector<at::Tensor>& in) { return turned(in[0], tables); }, {x}, resolution(dtype));
      // A slice of a fused projection, and in place.
      const at::Tensor fused = at::randn({2, 7, 5 * head_dim}).to(dtype);
      const at::Tensor slice = fused.narrow(-1, head_dim, 3 * head_dim).unflatten(-1, {3, head_dim});
      CHECK(error(apply_rotary(slice, tables), turned(slice, tables)) <= resolution(dtype));
      const c10::NoGradGuard no_grad;
      at::Tensor own = x.clone();
      const at::Tensor result = apply_rotary(own, tables, true);
      CHECK(result.data_ptr() == own.data_ptr());
      CHECK(error(result, turned(x, tables)) <= resolution(dtype));
    }
}

TEST_CASE("rows that share their positions share their tables") {
  const at::Tensor one = at::arange(9, at::kLong).view({1, 1, 9}), shared = one.expand({1, 3, 9});
  const at::Tensor frequencies = at::rand({4});
  const Rotary a = rotary_tables({.positions = shared, .inv_freq = frequencies, .attention_scaling = 1});
  const Rotary b = rotary_tables({.positions = shared.contiguous(), .inv_freq = frequencies, .attention_scaling = 1});
  CHECK(a.cos.stride(0) == 0);
  CHECK(a.cos.equal(b.cos));
  const at::Tensor x = at::randn({3, 9, 2, 8});
  CHECK(apply_rotary(x, a).equal(apply_rotary(x, b)));
}

// softmax(cap(q k^T * scale) + mask) v with keys and values repeated; rows without any key give zeros.
at::Tensor attention_written_out(const AttentionArgs& a, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const int64_t groups = q.size(1) / k.size(1);
  at::Tensor scores = at::matmul(q, k.repeat_interleave(groups, 1).transpose(2, 3)) * a.scale;
  if (a.softcap > 0) scores = (scores / a.softcap).tanh() * a.softcap;
  at::Tensor mask = at::ones({q.size(0), 1, q.size(2), k.size(2)}, at::kBool);
  const at::Tensor segments = a.segments.defined() ? a.segments.contiguous() : at::ones({q.size(0), q.size(2)}, at::kLong);
  const at::Tensor key_segments = a.segments.defined() ? a.key_segments.contiguous() : at::ones({q.size(0), k.size(2)}, at::kLong);
  const auto query_of = segments.accessor<int64_t, 2>(), key_of = key_segments.accessor<int64_t, 2>();
  auto allowed = mask.accessor<bool, 4>();
  for (int64_t b = 0; b < q.size(0); ++b)
    for (int64_t t = 0; t < q.size(2); ++t)
      for (int64_t s = 0; s < k.size(2); ++s) {
        const int64_t at = a.past + t;
        allowed[b][0][t][s] = !(a.causal && s > at) && !(a.window > 0 && s <= at - a.window) && query_of[b][t] == key_of[b][s];
      }
  return at::matmul(at::softmax(scores.masked_fill(mask.logical_not(), -std::numeric_limits<double>::infinity()), -1),
                    v.repeat_interleave(groups, 1));
}

TEST_CASE("attention equals its definition: groups, windows, soft caps, segments, a cache before it") {
  at::manual_seed(4);
  const int64_t batch = 2, tokens = 9;
  for (int64_t heads : {4, 6, 3})
    for (int64_t new_tokens : {tokens, int64_t{4}, int64_t{1}})
      for (int64_t window : {0, 3, 100})
        for (double softcap : {0.0, 2.0})
          for (int segmented : {0, 1, 2, 3}) {
            const int64_t kv_heads = heads == 4 ? 4 : heads / 3, head_dim = heads == 6 ? 32 : 8;
            INFO(concat(heads, " heads, ", new_tokens, " tokens, window ", window, ", soft cap ", softcap, ", segments ", segmented));
            AttentionArgs args{.scale = 0.4, .past = tokens - new_tokens, .window = window, .softcap = softcap};
            // Packed documents, padding in front, padding behind.
            const std::vector<std::vector<int64_t>> rows =
                segmented == 1   ? std::vector<std::vector<int64_t>>{{1, 1, 1, 2, 2, 2, 2, 3, 3}, {1, 2, 2, 2, 2, 2, 2, 2, 2}}
                : segmented == 2 ? std::vector<std::vector<int64_t>>{{0, 0, 0, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1, 1, 1}}
                                 : std::vector<std::vector<int64_t>>{{1, 1, 1, 1, 1, 1, 0, 0, 0}, {1, 1, 1, 1, 1, 1, 1, 1, 0}};
            at::Tensor real = at::ones({batch, 1, new_tokens, 1});
            if (segmented) {
              args.key_segments = at::stack({at::tensor(rows[0], at::kLong), at::tensor(rows[1], at::kLong)});
              // Without a cache both are the same tensor.
              args.segments = args.past ? args.key_segments.narrow(1, args.past, new_tokens) : args.key_segments;
              real = args.segments.ne(0).view({batch, 1, new_tokens, 1}).to(at::kFloat);
            }
            const Attention attention;
            const auto ours = [&](const std::vector<at::Tensor>& in) {
              AttentionArgs a = args;
              a.q = in[0], a.k = in[1], a.v = in[2];
              const at::Tensor y = attention(a);
              CHECK(y.isfinite().all().item<bool>());
              return y * real;  // padded rows are finite and ignored
            };
            const auto written_out = [&](const std::vector<at::Tensor>& in) {
              return attention_written_out(args, in[0], in[1], in[2]) * real;
            };
            check_same(ours, written_out,
                       {at::randn({batch, heads, new_tokens, head_dim}), at::randn({batch, kv_heads, tokens, head_dim}),
                        at::randn({batch, kv_heads, tokens, head_dim})},
                       1e-5);
          }
}

TEST_CASE("one token over a cache: head widths, groups, lengths, padding") {
  at::manual_seed(14);
  const c10::NoGradGuard no_grad;
  const Attention attention;
  for (at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    for (int64_t head_dim : {32, 48, 64, 96, 128, 256})
      for (int64_t group : {1, 3, 4, 6})
        for (int64_t keys : {1, 16, 200})
          for (bool padded : {false, true}) {
            INFO(concat("head_dim ", head_dim, ", group ", group, ", keys ", keys, ", padded ", padded));
            // A cache is longer than what it holds, and its values may be anything there.
            at::Tensor cache = at::randn({2, 2, keys + 9, head_dim}).to(dtype), values = at::randn({2, 2, keys + 9, head_dim}).to(dtype);
            cache.narrow(2, keys, 9).fill_(std::numeric_limits<double>::quiet_NaN());
            values.narrow(2, keys, 9).fill_(std::numeric_limits<double>::quiet_NaN());
            AttentionArgs args{.q = at::randn({2, 2 * group, 1, head_dim}).mul_(3).to(dtype),
                               .k = cache.narrow(2, 0, keys),
                               .v = values.narrow(2, 0, keys),
                               .scale = 0.2,
                               .past = keys - 1};
            if (padded) {
              args.key_segments = at::ones({2, keys}, at::kLong);
              args.key_segments.narrow(0, 1, 1).narrow(1, 0, keys / 2).zero_();
              args.segments = args.key_segments.narrow(1, keys - 1, 1);
            }
            const at::Tensor expected = attention_written_out(args, args.q.to(at::kFloat), args.k.to(at::kFloat), args.v.to(at::kFloat));
            CHECK(error(attention(args).to(at::kFloat), expected) < (dtype == at::kFloat ? 3e-6 : 1.5e-2));
          }
  // Scores far apart neither overflow nor vanish.
  AttentionArgs far{
      .q = at::full({1, 1, 1, 32}, 40.0), .k = at::randn({1, 1, 50, 32}) * 40, .v = at::randn({1, 1, 50, 32}), .scale = 1, .past = 49};
  CHECK(error(attention(far), attention_written_out(far, far.q, far.k, far.v)) < 3e-6);
}

TEST_CASE("attention without causality, in bfloat16, and with a batch that follows another") {
  at::manual_seed(5);
  const at::Tensor q = at::randn({1, 2, 5, 8}), k = at::randn({1, 2, 5, 8}), v = at::randn({1, 2, 5, 8});
  const Attention attention;
  AttentionArgs args{.q = q, .k = k, .v = v, .scale = 0.3, .causal = false};
  CHECK(error(attention(args), attention_written_out(args, q, k, v)) < 1e-6);
  args.window = 2;
  CHECK(error(attention(args), attention_written_out(args, q, k, v)) < 1e-6);
  args = {.q = q.to(at::kBFloat16), .k = k.to(at::kBFloat16), .v = v.to(at::kBFloat16), .scale = 0.3, .window = 2};
  CHECK(error(attention(args).to(at::kFloat), attention_written_out(args, q, k, v)) < 2e-2);
  // The masks of one batch must not serve another of the same shape.
  for (const auto& row : {std::vector<int64_t>{1, 1, 2, 2, 2}, std::vector<int64_t>{1, 1, 1, 2, 2}, std::vector<int64_t>{0, 1, 1, 1, 1}}) {
    AttentionArgs packed{.q = q, .k = k, .v = v, .scale = 0.3, .segments = at::tensor(row, at::kLong).unsqueeze(0)};
    packed.key_segments = packed.segments;
    CHECK(error(attention(packed).narrow(2, 1, 4), attention_written_out(packed, q, k, v).narrow(2, 1, 4)) < 1e-6);
  }
}

TEST_CASE("padding in front keeps gradients finite") {
  const at::Tensor segments = at::tensor({0, 0, 0, 1}, at::kLong).unsqueeze(0);
  for (double softcap : {0.0, 5.0}) {
    at::Tensor q = at::randn({1, 2, 4, 4}).requires_grad_(), k = at::randn({1, 1, 4, 4}).requires_grad_(),
               v = at::randn({1, 1, 4, 4}).requires_grad_();
    Attention()({.q = q, .k = k, .v = v, .softcap = softcap, .segments = segments, .key_segments = segments}).sum().backward();
    for (const at::Tensor& leaf : {q, k, v}) CHECK(leaf.grad().isfinite().all().item<bool>());
  }
}

TEST_CASE("gated activations equal their definitions, forward and back") {
  at::manual_seed(6);
  struct Case {
    std::string name;
    std::function<at::Tensor(const at::Tensor&)> act;
  };
  const Case cases[] = {
      {"silu", [](const at::Tensor& x) { return x * x.sigmoid(); }},
      {"swish", [](const at::Tensor& x) { return x * x.sigmoid(); }},
      {"gelu", [](const at::Tensor& x) { return x * 0.5 * (1 + (x / std::sqrt(2.0)).erf()); }},
      {"gelu_pytorch_tanh", [](const at::Tensor& x) { return 0.5 * x * (1 + (std::sqrt(2 / M_PI) * (x + 0.044715 * x.pow(3))).tanh()); }},
      {"gelu_new", [](const at::Tensor& x) { return 0.5 * x * (1 + (std::sqrt(2 / M_PI) * (x + 0.044715 * x.pow(3))).tanh()); }},
      {"quick_gelu", [](const at::Tensor& x) { return x * (1.702 * x).sigmoid(); }},
      {"relu", [](const at::Tensor& x) { return x.clamp_min(0); }},
      {"relu2", [](const at::Tensor& x) { return x.clamp_min(0).pow(2); }},
  };
  for (const Case& c : cases) {
    CAPTURE(c.name);
    check_same([&](const std::vector<at::Tensor>& in) { return activate({.gate = in[0], .up = in[1], .name = &c.name}); },
               [&](const std::vector<at::Tensor>& in) { return c.act(in[0]) * in[1]; }, {at::randn({3, 50}), at::randn({3, 50})}, 3e-6);
    check_same([&](const std::vector<at::Tensor>& in) { return activate({.gate = in[0], .up = {}, .name = &c.name}); },
               [&](const std::vector<at::Tensor>& in) { return c.act(in[0]); }, {at::randn({3, 50})}, 3e-6);
  }
  for (const auto& name : activation_names()) CHECK(has_activation(name));
  CHECK_FALSE(has_activation("prelu"));
}

TEST_CASE("a few bfloat16 rows times a weight: every row by itself, rounded once") {
  at::NoGradGuard no_grad;
  const auto bfloat16 = at::TensorOptions(at::kBFloat16);
  for (const auto& [in, out] : std::vector<std::pair<int64_t, int64_t>>{{32, 1}, {96, 7}, {2048, 130}, {64, 3000}, {48, 8}})
    for (const int64_t count : {1, 2, 3, 4, 5, 7, 16, 17}) {
      CAPTURE(in);
      CAPTURE(out);
      CAPTURE(count);
      const at::Tensor x = at::randn({1, count, in}, bfloat16), weight = at::randn({out, in}, bfloat16), bias = at::randn({out}, bfloat16);
      const at::Tensor exact = at::linear(x.to(at::kDouble), weight.to(at::kDouble), bias.to(at::kDouble));
      const at::Tensor y = nn::linear(x, weight, bias);
      CHECK((y.scalar_type() == at::kBFloat16));
      CHECK((y.sizes() == exact.sizes()));
      // One rounding to 8 bits, and float32 sums.
      CHECK((y.to(at::kDouble) - exact).abs().sub(exact.abs() * (1.0 / 256)).max().item<double>() <= 1e-4);
      const at::Tensor plain = nn::linear(x, weight);
      CHECK((plain.to(at::kDouble) - (exact - bias.to(at::kDouble))).abs().max().item<double>() <=
            0.005 * exact.abs().max().item<double>() + 0.01);
      if (count <= 16 && in % 32 == 0) CHECK(nn::linear(x.narrow(1, count - 1, 1), weight, bias).equal(y.narrow(1, count - 1, 1)));
    }
  at::GradMode::set_enabled(true);
  const at::Tensor x = at::randn({2, 64}, bfloat16).requires_grad_(true), weight = at::randn({8, 64}, bfloat16);
  CHECK(nn::linear(x, weight).requires_grad());
}

// On a processor with such instructions these go LibTorch's way, on others through float32; test_nn_float is this program with TENON_CPU=portable.
TEST_CASE("dense products of half precision equal their definition, forward and back: few rows, many, more than a panel of either") {
  at::manual_seed(6);
  struct Shape {
    std::vector<int64_t> rows;
    int64_t in, out;
  };
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf})
    for (const Shape& shape : {Shape{{1}, 7, 5}, Shape{{2, 9}, 64, 33}, Shape{{40}, 32, 16}, Shape{{2, 1100}, 40, 24},
                               Shape{{3}, 1024, 2500}, Shape{{16}, 300, 131'000}}) {
      CAPTURE(shape.out);
      // LibTorch's own way takes minutes here where it has to emulate.
      if (shape.out > 100'000 && (dtype == at::kHalf || !is_faster_in_float(at::zeros({1}, dtype)))) continue;
      std::vector<int64_t> sizes = shape.rows;
      sizes.push_back(shape.in);
      const at::Tensor x = at::randn(sizes).to(dtype), weight = at::randn({shape.out, shape.in}).div_(std::sqrt(shape.in)).to(dtype),
                       bias = at::randn({shape.out}).to(dtype);
      const auto wide = [&](const std::vector<at::Tensor>& t) {
        return (t.size() > 2 ? at::linear(t[0].to(at::kFloat), t[1].to(at::kFloat), t[2].to(at::kFloat))
                             : at::linear(t[0].to(at::kFloat), t[1].to(at::kFloat)))
            .to(dtype);
      };
      check_same([](const auto& t) { return nn::linear(t[0], t[1], t[2]); }, wide, {x, weight, bias}, resolution(dtype));
      check_same([](const auto& t) { return nn::linear(t[0], t[1]); }, wide, {x, weight}, resolution(dtype));
      check_same([](const auto& t) { return nn::matmul(t[0], t[1].t()); }, wide, {x, weight}, resolution(dtype));
      const auto transposed = [&](const std::vector<at::Tensor>& t) {
        return at::matmul(t[0].to(at::kFloat), t[1].to(at::kFloat)).to(dtype);
      };
      check_same([](const auto& t) { return nn::matmul(t[0], t[1]); }, transposed,
                 {at::linear(x.to(at::kFloat), weight.to(at::kFloat)).to(dtype), weight}, resolution(dtype));
    }
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf})
    check_same([](const auto& t) { return nn::matmul(t[0], t[1]); },
               [&](const auto& t) { return at::matmul(t[0].to(at::kFloat), t[1].to(at::kFloat)).to(dtype); },
               {at::randn({2, 3, 4, 5}).to(dtype), at::randn({2, 3, 5, 6}).to(dtype)}, resolution(dtype));
}

TEST_CASE("attention of half precision equals its definition, forward and back: groups, masks, widths of head") {
  at::manual_seed(7);
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf})
    for (const auto& [heads, kv_heads] : {std::pair{2, 2}, std::pair{6, 2}})
      for (const int64_t value_width : {16, 8})
        for (const int64_t window : {0, 3}) {
          CAPTURE(heads);
          CAPTURE(window);
          const Attention attention;
          const auto args = [&](const std::vector<at::Tensor>& t) {
            return AttentionArgs{.q = t[0], .k = t[1], .v = t[2], .scale = 0.3, .window = window};
          };
          check_same([&](const auto& t) { return attention(args(t)); },
                     [&](const auto& t) {
                       const at::Tensor q = t[0].to(at::kFloat), k = t[1].to(at::kFloat), v = t[2].to(at::kFloat);
                       return attention_written_out(args({q, k, v}), q, k, v).to(dtype);
                     },
                     {at::randn({2, heads, 37, 16}).to(dtype), at::randn({2, kv_heads, 37, 16}).to(dtype),
                      at::randn({2, kv_heads, 37, value_width}).to(dtype)},
                     2 * resolution(dtype));
        }
}

TEST_CASE("dropout: the share asked for, the same elements for the same mask, others for another, in any dtype and on any threads") {
  at::manual_seed(8);
  const at::Tensor ones = at::ones({1000, 997});
  for (const double share : {0.05, 0.5, 0.9}) {
    const DropoutMask mask = draw_dropout(ones, share), other = draw_dropout(ones, share);
    const at::Tensor y = apply_dropout(ones, mask), dropped = (y == 0).to(at::kFloat);
    CHECK(at::equal(y, apply_dropout(ones, mask)));
    CHECK(error(y.masked_select(y != 0), at::full({(y != 0).sum().item<int64_t>()}, 1 / (1 - share))) < 1e-6);
    // Six standard deviations of a share and of the covariance of two independent ones, over 997,000 elements.
    const double spread = std::sqrt(share * (1 - share) / 997e3);
    CHECK(std::abs(dropped.mean().item<double>() - share) < 6 * spread);
    const at::Tensor centred = dropped - share, flat = centred.flatten();
    const auto independent = [&](const at::Tensor& a, const at::Tensor& b) {
      return std::abs((a * b).mean().item<double>()) < 6e-3 * share * (1 - share) + 1e-12;
    };
    CHECK(independent(centred, (apply_dropout(ones, other) == 0).to(at::kFloat) - share));
    for (const int64_t step : {1, 2, 16, 64, 997, 4096})
      CHECK(independent(flat.narrow(0, 0, flat.size(0) - step), flat.narrow(0, step, flat.size(0) - step)));
    CHECK(std::abs(dropped.mean(0).sub(share).abs().max().item<double>()) < 6 * std::sqrt(share * (1 - share) / 1000));
    for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf, at::kDouble}) {
      const at::Tensor x = at::randn({3, 70}).to(dtype);
      at::manual_seed(1);
      const DropoutMask small = draw_dropout(x, share);
      const at::Tensor z = apply_dropout(x, small), kept = z != 0;
      CHECK((z.scalar_type() == dtype));
      CHECK(error(z, (x.to(at::kDouble) * kept / (1 - share)).to(dtype)) <= resolution(dtype));
      CHECK(at::equal(apply_dropout(x.t().contiguous().t(), small), z));  // logical order, whatever lies where
    }
  }
  CHECK(apply_dropout(ones, draw_dropout(ones, 0)).is_same(ones));
  const DropoutMask mask = draw_dropout(ones, 0.5);
  at::set_num_threads(3);
  const at::Tensor y = apply_dropout(ones, mask);
  at::set_num_threads(1);
  CHECK(at::equal(y, apply_dropout(ones, mask)));
}

TEST_CASE("a mixture of experts equals each token through each of its experts, forward and back") {
  const int64_t tokens = 23, count = 5, width = 6, out = 4, top_k = 3;
  for (const bool normalize : {false, true}) {
    auto ours = [&](const std::vector<at::Tensor>& in) {
      return mix_experts(in[1], route({.logits = in[0], .top_k = top_k, .normalize = normalize}), count,
                         [&](const at::Tensor& sorted, const at::Tensor& first) { return grouped_linear(sorted, first, in[2]); });
    };
    // Every expert for every token, those not chosen with weight zero.
    auto reference = [&](const std::vector<at::Tensor>& in) {
      const at::Tensor all = at::softmax(in[0], -1);
      at::Tensor chosen = all * at::zeros({tokens, count}).scatter(1, std::get<1>(all.topk(top_k)), 1);
      if (normalize) chosen = chosen / chosen.sum(-1, true);
      return (at::matmul(in[2].unsqueeze(0), in[1].view({tokens, 1, width, 1})).squeeze(-1) * chosen.unsqueeze(-1)).sum(1);
    };
    check_same(ours, reference, {at::randn({tokens, count}), at::randn({tokens, width}), at::randn({count, out, width})}, 1e-5);
  }
}

TEST_CASE("the load balance of experts leaves padding out and adds up over layers") {
  const at::Tensor logits = at::randn({2, 6, 4});
  const at::Tensor segments = at::tensor({1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0}, at::kLong).view({2, 6});
  State state;
  state.segments = segments;
  for (int layer = 0; layer < 2; ++layer) {
    const at::Tensor of_layer = (logits * (layer + 1)).view({12, 4});
    count_routed(state, of_layer, route({.logits = of_layer, .top_k = 2}));
  }
  // Twice the nine tokens, by hand.
  at::Tensor tokens = at::zeros({4}), probability = at::zeros({4});
  for (int layer = 0; layer < 2; ++layer)
    for (int64_t i = 0; i < 9; ++i) {
      const at::Tensor p = at::softmax((logits * (layer + 1)).view({12, 4})[i], 0);
      probability = probability + p;
      tokens.scatter_add_(0, std::get<1>(p.topk(2)), at::ones({2}));
    }
  CHECK(error(balance_loss(state), (tokens / 18 * (probability / 18)).sum() * 4) < 1e-5);
  CHECK(!balance_loss(State{}).defined());
}

TEST_CASE("log-probabilities equal log_softmax, forward and back, with caps and scales, over several panels") {
  at::manual_seed(7);
  struct Case {
    int64_t rows, vocab;
    double cap, scale;
  };
  for (const Case& c : {Case{5, 11, 0, 1}, Case{1, 1, 0, 1}, Case{7, 300, 3.0, 0.5}, Case{40, 70001, 0, 1}}) {
    const at::Tensor targets = at::randint(0, c.vocab, {c.rows}, at::kLong);
    const auto head = [&](const at::Tensor& weight) {
      auto slot = std::make_unique<Slot>(SlotSpec{.path = "lm_head", .out = c.vocab, .in = 6});
      slot->fill(std::make_shared<testing::PlainFiller>(weight, at::Tensor()));
      return slot;
    };
    check_same(
        [&](const std::vector<at::Tensor>& in) {
          const auto slot = head(in[1]);
          return token_logprobs({.hidden = in[0], .targets = targets, .head = slot.get(), .logit_softcap = c.cap, .logit_scale = c.scale});
        },
        [&](const std::vector<at::Tensor>& in) {
          return at::log_softmax(soft_cap(at::linear(in[0], in[1]) * c.scale, c.cap), -1).gather(1, targets.unsqueeze(1)).squeeze(1);
        },
        {at::randn({c.rows, 6}), at::randn({c.vocab, 6})}, 3e-6);
    const auto slot = head(at::randn({c.vocab, 6}));
    CHECK_THROWS_AS(token_logprobs({.hidden = at::randn({1, 6}), .targets = at::tensor({c.vocab}, at::kLong), .head = slot.get()}), Error);
  }
}

TEST_CASE("tokens are counted within their segments, from the cache's end") {
  const auto place = [](const std::vector<int64_t>& row, KvCache* cache) {
    const at::Tensor segments = at::tensor(row, at::kLong).unsqueeze(0);
    State state;
    place_tokens({.ids = at::zeros({1, segments.size(1)}, at::kLong), .segments = segments}, cache, state);
    if (cache) cache->commit(segments.size(1));
    const at::Tensor flat = state.positions.contiguous();
    return std::vector<int64_t>(flat.const_data_ptr<int64_t>(), flat.const_data_ptr<int64_t>() + flat.numel());
  };
  using Row = std::vector<int64_t>;
  CHECK(place({1, 1, 1}, nullptr) == Row{0, 1, 2});
  CHECK(place({1, 1, 2, 2, 2, 3}, nullptr) == Row{0, 1, 0, 1, 2, 0});
  const Row padded = place({0, 0, 1, 1}, nullptr);
  CHECK(Row(padded.begin() + 2, padded.end()) == Row{0, 1});
  KvCache cache({{.kv_heads = 1, .head_dim = 2}}, 1, 16, at::kFloat);
  CHECK(place({0, 1, 1}, &cache)[2] == 1);
  CHECK(place({1}, &cache) == Row{2});
  CHECK(place({0}, &cache).size() == 1);  // padding in between
  CHECK(place({1, 1}, &cache) == Row{3, 4});
  cache.truncate(4);
  CHECK(place({1, 2}, &cache) == Row{3, 0});
  CHECK_THROWS_AS(place(Row(11, 1), &cache), Error);
  CHECK_THROWS_AS(cache.truncate(99), Error);
}

TEST_CASE("no result depends on the number of threads") {
  at::manual_seed(15);
  const at::Tensor x = at::randn({1, 300, 4, 64}).to(at::kBFloat16), weight = at::randn({64});
  const Rotary tables = rotary_tables({.positions = at::arange(300, at::kLong).view({1, 1, 300}), .inv_freq = at::rand({32})});
  const at::Tensor q = at::randn({2, 8, 1, 64}), k = at::randn({2, 4, 400, 64}), v = at::randn({2, 4, 400, 64});
  const auto run = [&](int threads) {
    at::set_num_threads(threads);
    const c10::NoGradGuard no_grad;
    return std::vector<at::Tensor>{rms_norm(x, weight, 1e-6, at::kBFloat16), apply_rotary(x, tables), tables.cos,
                                   Attention()({.q = q, .k = k, .v = v, .scale = 0.1, .past = 399})};
  };
  const std::vector<at::Tensor> alone = run(1), together = run(3);
  for (size_t i = 0; i < alone.size(); ++i) CHECK(alone[i].equal(together[i]));
  at::set_num_threads(1);
}

TEST_CASE("ids that are no tokens are refused") {
  CHECK_NOTHROW(check_ids(at::zeros({1, 2}, at::kLong), 3));
  CHECK_THROWS_AS(check_ids(at::zeros({1, 2}, at::kFloat), 3), Error);
  CHECK_THROWS_AS(check_ids(at::zeros({2}, at::kLong), 3), Error);
  CHECK_THROWS_AS(check_ids(at::zeros({1, 0}, at::kLong), 3), Error);
  CHECK_THROWS_WITH(check_ids(at::tensor({0, 3}, at::kLong).unsqueeze(0), 3), "token id 3 is outside the vocabulary of 3");
  CHECK_THROWS_AS(check_ids(at::tensor({-1}, at::kLong).unsqueeze(0), 3), Error);
}

}  // namespace
}  // namespace tenon::nn
