#include "attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <doctest/doctest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

#include "tenon/nn/attention.h"

using namespace tenon;

namespace {

// float32 sums of some ten products, in another order.
constexpr double kClose = 2e-5;

using Kind = std::pair<const char*, std::function<at::Tensor(const AttentionArgs&)>>;
const std::vector<Kind> kKinds = {{"eager", attention::eager}, {"sdpa", nn::Attention()}, {"flash", attention::flash}};

bool close(const at::Tensor& a, const at::Tensor& b, double tolerance = kClose) {
  const double worst = (a.detach().to(at::kDouble) - b.detach().to(at::kDouble)).abs().max().item<double>();
  INFO("largest difference " << worst);
  return a.sizes() == b.sizes() && worst <= tolerance;
}

at::Tensor segments_of(std::vector<std::vector<int64_t>> rows) {
  std::vector<at::Tensor> tensors;
  for (const auto& row : rows) tensors.push_back(at::tensor(row).unsqueeze(0));
  return at::cat(tensors, 0);
}

// What a seam's arguments mean, an entry at a time, in float64. Rows of padding are zero.
at::Tensor by_definition(const AttentionArgs& a) {
  const int64_t rows = a.q.size(0), heads = a.q.size(1), tokens = a.q.size(2), keys = a.k.size(2), group = heads / a.k.size(1);
  at::Tensor hidden = at::ones({rows, 1, tokens, keys}, at::kBool);
  at::Tensor real = at::ones({rows, 1, tokens, 1}, at::kDouble);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t own = a.segments.defined() ? a.segments[r][t].item<int64_t>() : 1;
      if (own == 0) real[r][0][t] = 0;
      for (int64_t s = 0; s < keys; ++s) {
        const int64_t theirs = a.key_segments.defined() ? a.key_segments[r][s].item<int64_t>()
                               : a.segments.defined()   ? a.segments[r][s].item<int64_t>()
                                                        : 1;
        const bool sees = (own == theirs || own == 0) && (!a.causal || s <= a.past + t) && (a.window == 0 || s > a.past + t - a.window);
        if (sees) hidden[r][0][t][s] = false;
      }
    }
  auto spread = [&](const at::Tensor& x) { return x.to(at::kDouble).repeat_interleave(group, 1); };
  at::Tensor scores = at::matmul(a.q.to(at::kDouble), spread(a.k).transpose(2, 3)) * a.scale;
  if (a.softcap > 0) scores = at::tanh(scores / a.softcap) * a.softcap;
  return at::matmul(at::softmax(scores.masked_fill(hidden, -std::numeric_limits<double>::infinity()), -1), spread(a.v)) * real;
}

// 1 where a query is no padding.
at::Tensor real_queries(const AttentionArgs& a) {
  if (!a.segments.defined()) return at::ones({1, 1, 1, 1});
  return a.segments.ne(0).to(at::kFloat).unsqueeze(1).unsqueeze(-1);
}

struct Case {
  const char* name;
  at::Tensor segments;
  int64_t rows, tokens;
  int64_t window = 0, past = 0;
  double softcap = 0;
  bool causal = true;
};

std::vector<Case> cases() {
  return {
      {"plain", {}, 2, 7},
      {"one token", {}, 2, 1},
      {"window", {}, 2, 9, 3},
      {"window wider than the text", {}, 1, 5, 8},
      {"cap", {}, 2, 6, 0, 0, 1.5},
      {"both ways", {}, 1, 6, 0, 0, 0, false},
      {"packed", segments_of({{1, 1, 1, 2, 2, 2, 2, 3}}), 1, 8},
      {"packed, padded", segments_of({{1, 1, 1, 2, 2, 0, 0, 0}, {1, 2, 2, 2, 2, 2, 2, 3}}), 2, 8},
      {"packed, windows", segments_of({{1, 1, 1, 1, 1, 2, 2, 2, 2, 0}, {1, 2, 2, 2, 2, 2, 2, 2, 3, 3}}), 2, 10, 2},
      {"packed, cap", segments_of({{1, 1, 1, 2, 2, 0}}), 1, 6, 0, 0, 2},
      {"padded behind", segments_of({{1, 1, 1, 1, 0}, {1, 1, 0, 0, 0}}), 2, 5},
      {"padded before", segments_of({{0, 0, 1, 1, 1}, {1, 1, 1, 1, 1}}), 2, 5},
      {"after a cache", {}, 2, 1, 0, 6},
      {"after a cache, window", {}, 2, 1, 3, 6},
      {"more after a cache", {}, 2, 4, 0, 5},
      {"more after a cache, window", {}, 2, 4, 3, 5},
  };
}

AttentionArgs arguments(const Case& c, bool grad = false) {
  const int64_t keys = c.past + c.tokens;
  AttentionArgs a{.q = at::randn({c.rows, 4, c.tokens, 6}), .k = at::randn({c.rows, 2, keys, 6}), .v = at::randn({c.rows, 2, keys, 6})};
  a.scale = 0.4, a.causal = c.causal, a.past = c.past, a.window = c.window, a.softcap = c.softcap;
  a.segments = a.key_segments = c.segments;
  for (at::Tensor* x : {&a.q, &a.k, &a.v}) x->set_requires_grad(grad);
  return a;
}

}  // namespace

TEST_CASE("every kind computes what the arguments say") {
  at::manual_seed(1);
  const at::NoGradGuard no_grad;
  for (const Case& c : cases())
    for (const auto& [name, attend] : kKinds) {
      const AttentionArgs a = arguments(c);
      const at::Tensor y = attend(a);
      INFO(name << ": " << c.name);
      CHECK(y.isfinite().all().item<bool>());
      CHECK(close(y * real_queries(a), by_definition(a)));
    }
}

TEST_CASE("gradients of every kind are eager's") {
  at::manual_seed(2);
  for (const Case& c : cases()) {
    const AttentionArgs a = arguments(c, true);
    const at::Tensor weight = at::randn({c.rows, 4, c.tokens, 6}) * real_queries(a);
    std::vector<std::vector<at::Tensor>> gradients;
    for (const auto& [name, attend] : kKinds) gradients.push_back(torch::autograd::grad({(attend(a) * weight).sum()}, {a.q, a.k, a.v}));
    const auto expected = torch::autograd::grad({(by_definition(a) * weight).sum()}, {a.q, a.k, a.v});
    for (size_t kind = 0; kind < kKinds.size(); ++kind)
      for (size_t i = 0; i < 3; ++i) {
        INFO(kKinds[kind].first << ": " << c.name << ", input " << i);
        CHECK(close(gradients[kind][i], expected[i]));
      }
  }
}

TEST_CASE("documents packed in a row are as each alone, forward and backward") {
  at::manual_seed(3);
  const std::vector<int64_t> lengths = {4, 1, 6, 3};
  std::vector<int64_t> row;
  for (size_t d = 0; d < lengths.size(); ++d) row.insert(row.end(), static_cast<size_t>(lengths[d]), static_cast<int64_t>(d) + 1);
  for (const int64_t window : {0, 3})
    for (const auto& [name, attend] : kKinds) {
      INFO(name << ", window " << window);
      const Case packed{"", segments_of({row}), 1, static_cast<int64_t>(row.size()), window};
      const AttentionArgs a = arguments(packed, true);
      const at::Tensor weight = at::randn({1, 4, packed.tokens, 6});
      const at::Tensor whole = attend(a);
      const auto gradients = torch::autograd::grad({(whole * weight).sum()}, {a.q, a.k, a.v});
      for (int64_t first = 0, d = 0; d < static_cast<int64_t>(lengths.size()); first += lengths[static_cast<size_t>(d)], ++d) {
        const int64_t length = lengths[static_cast<size_t>(d)];
        auto cut = [&](const at::Tensor& x) { return x.detach().narrow(2, first, length).clone().requires_grad_(true); };
        AttentionArgs alone{.q = cut(a.q), .k = cut(a.k), .v = cut(a.v), .scale = a.scale, .window = window};
        const at::Tensor y = attend(alone);
        CHECK(close(y, whole.narrow(2, first, length)));
        const auto own = torch::autograd::grad({(y * weight.narrow(2, first, length)).sum()}, {alone.q, alone.k, alone.v});
        for (size_t i = 0; i < 3; ++i) CHECK(close(own[i], gradients[i].narrow(2, first, length)));
      }
    }
}

TEST_CASE("what a document contains changes no other") {
  at::manual_seed(4);
  const at::NoGradGuard no_grad;
  for (const auto& [name, attend] : kKinds) {
    INFO(name);
    AttentionArgs a = arguments({"", segments_of({{1, 1, 1, 2, 2, 2}}), 1, 6});
    const at::Tensor before = attend(a).narrow(2, 3, 3).clone();
    for (at::Tensor* x : {&a.q, &a.k, &a.v}) *x = at::cat({at::randn_like(x->narrow(2, 0, 3)), x->narrow(2, 3, 3)}, 2);
    CHECK(close(attend(a).narrow(2, 3, 3), before, 1e-6));
  }
}

TEST_CASE("in bfloat16 every kind stays near the definition") {
  at::manual_seed(5);
  const at::NoGradGuard no_grad;
  for (const auto& [name, attend] : kKinds) {
    INFO(name);
    AttentionArgs a = arguments({"", segments_of({{1, 1, 1, 2, 2, 2, 2, 0}}), 1, 8});
    for (at::Tensor* x : {&a.q, &a.k, &a.v}) *x = x->to(at::kBFloat16);
    const at::Tensor y = attend(a);
    CHECK((y.scalar_type() == at::kBFloat16));
    // Weights and results rounded to 8 bits, values up to 3.
    CHECK(close(y.to(at::kFloat) * real_queries(a), by_definition(a), 0.03));
  }
}

TEST_CASE("the patch replaces, narrows, and says when it does neither") {
  auto fresh = [] {
    Seams seams;
    seams.attention.set_default("sdpa", nn::Attention());
    return seams;
  };
  using Names = std::vector<std::string>;
  Seams none;
  CHECK(!attention::AttentionPatch({.implementation = "eager"}).on_seams(none));
  Seams plain = fresh(), same = fresh(), eager = fresh(), narrow = fresh(), both = fresh();
  CHECK(!attention::AttentionPatch({}).on_seams(plain));
  CHECK(!attention::AttentionPatch({.implementation = "sdpa"}).on_seams(same));
  CHECK(same.attention.is_default());
  CHECK(attention::AttentionPatch({.implementation = "eager"}).on_seams(eager));
  CHECK(eager.attention.chain() == Names{"eager"});
  CHECK(attention::AttentionPatch({.sliding_window = 3}).on_seams(narrow));
  CHECK(narrow.attention.chain() == Names{"sdpa", "sliding_window"});
  CHECK(attention::AttentionPatch({.implementation = "flash", .sliding_window = 3}).on_seams(both));
  CHECK(both.attention.chain() == Names{"flash", "sliding_window"});
  AttentionArgs a = arguments({"", {}, 1, 8}), windowed = a;
  windowed.window = 3;
  CHECK(close(both.attention(a), by_definition(windowed)));
  // Attention to what is no line of text keeps all of it.
  AttentionArgs other = a;
  other.causal = false;
  CHECK(close(narrow.attention(other), by_definition(other)));
  windowed.window = 2;  // the model's own is smaller
  CHECK(close(both.attention(windowed), by_definition(windowed)));
  CHECK_THROWS_AS(attention::AttentionPatch({.implementation = "eager"}).on_seams(both), Error);
}
