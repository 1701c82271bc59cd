// The decoder as a whole: what a token may see, caches, padding, packing, gradients. Parity with transformers is tests/parity/test_logits.py.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <doctest/doctest.h>

#include <cmath>
#include <regex>
#include <set>

#include "architecture.h"
#include "support/tiny_model.h"

namespace tenon::llama {
namespace {

// The models are too small for several threads.
struct OneThread {
  OneThread() { at::set_num_threads(1); }
} one_thread;

// Float32 on both sides; only the order of sums differs.
constexpr double kTolerance = 1e-5;

double error(const at::Tensor& a, const at::Tensor& b) {
  REQUIRE(a.sizes() == b.sizes());
  return (a - b).abs().max().item<double>() / std::max(1e-12, b.abs().max().item<double>());
}

struct Kind {
  const char* model_type;
  Value config;
};

Value tiny_config(std::initializer_list<Value::Entry> extra) {
  Value config = Value::table();
  config.set("vocab_size", 53), config.set("hidden_size", 24), config.set("intermediate_size", 37), config.set("num_hidden_layers", 3);
  config.set("num_attention_heads", 6), config.set("num_key_value_heads", 2), config.set("max_position_embeddings", 64);
  for (const auto& [key, value] : extra) config.set(key, value);
  return config;
}

Value partial_rotary() {
  Value table = Value::table();
  table.set("rope_type", "default"), table.set("partial_rotary_factor", 0.5);
  return table;
}

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all = {
      {"llama", tiny_config({{"attention_bias", true}, {"mlp_bias", true}})},
      {"llama", tiny_config({{"tie_word_embeddings", true}, {"num_key_value_heads", 6}, {"head_dim", 10}})},
      {"mistral", tiny_config({{"sliding_window", 4}})},
      {"qwen2", tiny_config({{"use_sliding_window", true}, {"sliding_window", 3}, {"max_window_layers", 1}})},
      {"qwen3", tiny_config({{"head_dim", 8}, {"tie_word_embeddings", true}})},
      {"gemma2", tiny_config({{"head_dim", 8}, {"query_pre_attn_scalar", 8}, {"sliding_window", 4}})},
      {"phi3", tiny_config({{"pad_token_id", nullptr}, {"rope_parameters", partial_rotary()}})},
      {"smollm3", tiny_config({{"no_rope_layer_interval", 2}})},
      {"mixtral", tiny_config({{"num_local_experts", 5}})},
      {"qwen3_moe",
       tiny_config({{"num_experts", 4}, {"num_experts_per_tok", 3}, {"moe_intermediate_size", 18}, {"decoder_sparse_step", 2}})},
  };
  return all;
}

testing::TinyModel make(const Kind& kind, Precision precision = {}, bool trainable = false) {
  at::manual_seed(11);
  return {DecoderArchitecture(family_of(kind.model_type)), kind.config, precision, trainable};
}

at::Tensor random_ids(int64_t rows, int64_t tokens, uint64_t seed) {
  at::manual_seed(seed);
  return at::randint(0, 53, {rows, tokens}, at::kLong);
}

TEST_CASE("a token does not see those after it") {
  for (const Kind& kind : kinds()) {
    CAPTURE(kind.model_type);
    auto tiny = make(kind);
    const at::Tensor ids = random_ids(2, 13, 1);
    const at::Tensor before = tiny.logits({.ids = ids});
    at::Tensor changed = ids.clone();
    changed.narrow(1, 7, 6).copy_((changed.narrow(1, 7, 6) + 1).remainder(53));
    const at::Tensor after = tiny.logits({.ids = changed});
    CHECK(error(after.narrow(1, 0, 7), before.narrow(1, 0, 7)) < kTolerance);
    CHECK(error(after.narrow(1, 7, 6), before.narrow(1, 7, 6)) > 0.01);
  }
}

TEST_CASE("a cache gives what the full pass gives: token by token, in pieces, after a step back") {
  for (const Kind& kind : kinds()) {
    CAPTURE(kind.model_type);
    auto tiny = make(kind);
    const at::Tensor ids = random_ids(2, 12, 2);
    const at::Tensor full = tiny.logits({.ids = ids});
    for (const std::vector<int64_t>& pieces :
         {std::vector<int64_t>(12, 1), std::vector<int64_t>{5, 1, 1, 4, 1}, std::vector<int64_t>{12}}) {
      const auto cache = tiny.model->make_cache(2, 14);
      std::vector<at::Tensor> outputs;
      for (int64_t at = 0; int64_t size : pieces) outputs.push_back(tiny.logits({.ids = ids.narrow(1, at, size)}, cache.get())), at += size;
      CHECK(cache->length() == 12);
      CHECK(error(at::cat(outputs, 1), full) < kTolerance);
      cache->truncate(9);
      CHECK(error(tiny.logits({.ids = ids.narrow(1, 9, 3)}, cache.get()), full.narrow(1, 9, 3)) < kTolerance);
      CHECK_THROWS_AS(tiny.logits({.ids = ids.narrow(1, 0, 3)}, cache.get()), Error);
    }
  }
}

TEST_CASE("phi3 over a cache is as without one below, across and back from its original context") {
  Value rope = Value::table();
  rope.set("rope_type", "longrope"), rope.set("short_factor", Value::List{1.0, 1.1}), rope.set("long_factor", Value::List{3.0, 5.0});
  auto tiny = make({"phi3", tiny_config({{"original_max_position_embeddings", 8}, {"rope_parameters", rope}, {"pad_token_id", nullptr}})});
  const at::Tensor ids = random_ids(2, 12, 2);
  const auto full = [&](int64_t length) { return tiny.logits({.ids = ids.narrow(1, 0, length)}).select(1, length - 1); };
  const auto cache = tiny.model->make_cache(2, 14);
  for (int64_t at = 0; at < 12; ++at) {
    const at::Tensor logits = tiny.logits({.ids = ids.narrow(1, at, 1)}, cache.get());
    CHECK(logits.size(1) == 1);
    CHECK(cache->length() == at + 1);
    CHECK(error(logits.select(1, 0), full(at + 1)) < kTolerance);
  }
  CHECK(error(full(8), tiny.logits({.ids = ids}).select(1, 7)) > 0.01);  // the two rotations differ
  cache->truncate(5);
  CHECK(error(tiny.logits({.ids = ids.narrow(1, 5, 2)}, cache.get()).select(1, 1), full(7)) < kTolerance);
  // Padding does not count.
  const at::Tensor pad = at::zeros({2, 3}, at::kLong), real = at::ones({2, 6}, at::kLong);
  const auto padded = tiny.model->make_cache(2, 16);
  tiny.logits({.ids = at::cat({pad, ids.narrow(1, 0, 6)}, 1), .segments = at::cat({pad, real}, 1)}, padded.get());
  for (int64_t at = 6; at < 12; ++at)
    CHECK(error(tiny.logits({.ids = ids.narrow(1, at, 1)}, padded.get()).select(1, 0), full(at + 1)) < kTolerance);
}

TEST_CASE("a step over a cache leaves the values of the blocks' inputs alone") {
  auto tiny = make(kinds()[0]);
  const c10::NoGradGuard no_grad;
  State state = tiny.model->begin({.ids = random_ids(1, 3, 3)}, nullptr);
  const at::Tensor input = state.hidden, copy = input.clone();
  tiny.model->run_block(0, 0, state);
  CHECK(input.equal(copy));
  CHECK_FALSE(state.hidden.equal(copy));
}

TEST_CASE("padding in front and behind changes nothing, with a cache and without") {
  for (const Kind& kind : kinds()) {
    CAPTURE(kind.model_type);
    auto tiny = make(kind);
    const at::Tensor ids = random_ids(1, 9, 4), more = random_ids(1, 3, 5);
    const at::Tensor full = tiny.logits({.ids = at::cat({ids, more}, 1)});
    const at::Tensor pad = at::full({1, 4}, 7, at::kLong), none = at::zeros({1, 4}, at::kLong), real = at::ones({1, 9}, at::kLong);
    struct Case {
      at::Tensor ids, segments;
      int64_t first;
    };
    for (const Case& c :
         {Case{at::cat({pad, ids}, 1), at::cat({none, real}, 1), 4}, Case{at::cat({ids, pad}, 1), at::cat({real, none}, 1), 0}}) {
      CHECK(error(tiny.logits({.ids = c.ids, .segments = c.segments}).narrow(1, c.first, 9), full.narrow(1, 0, 9)) < kTolerance);
      const auto cache = tiny.model->make_cache(1, 20);
      CHECK(error(tiny.logits({.ids = c.ids, .segments = c.segments}, cache.get()).narrow(1, c.first, 9), full.narrow(1, 0, 9)) <
            kTolerance);
      // A window counts places, so padding between a token and its past shortens it: only padding in front continues under windows.
      const auto decoder = read_config(family_of(kind.model_type), kind.config);
      const bool windows = std::any_of(decoder.windows.begin(), decoder.windows.end(), [](int64_t w) { return w > 0; });
      if (c.first == 0 && windows) continue;
      for (int64_t t = 0; t < 3; ++t)
        CHECK(error(tiny.logits({.ids = more.narrow(1, t, 1)}, cache.get()), full.narrow(1, 9 + t, 1)) < kTolerance);
    }
  }
}

TEST_CASE("packed documents are as separate ones") {
  for (const Kind& kind : kinds()) {
    CAPTURE(kind.model_type);
    auto tiny = make(kind);
    const at::Tensor a = random_ids(1, 5, 6), b = random_ids(1, 7, 7), c = random_ids(1, 1, 8);
    const auto segment = [](int64_t tokens, int64_t number) { return at::full({1, tokens}, number, at::kLong); };
    const at::Tensor packed = tiny.logits(
        {.ids = at::cat({a, b, c, a}, 1), .segments = at::cat({segment(5, 1), segment(7, 2), segment(1, 3), segment(5, 0)}, 1)});
    CHECK(error(packed.narrow(1, 0, 5), tiny.logits({.ids = a})) < kTolerance);
    CHECK(error(packed.narrow(1, 5, 7), tiny.logits({.ids = b})) < kTolerance);
    CHECK(error(packed.narrow(1, 12, 1), tiny.logits({.ids = c})) < kTolerance);
    CHECK(packed.isfinite().all().item<bool>());
  }
}

TEST_CASE("the rows of a batch do not meet") {
  for (const Kind& kind : kinds()) {
    auto tiny = make(kind);
    const at::Tensor ids = random_ids(3, 8, 9);
    const at::Tensor together = tiny.logits({.ids = ids});
    for (int64_t row = 0; row < 3; ++row)
      CHECK(error(together.narrow(0, row, 1), tiny.logits({.ids = ids.narrow(0, row, 1)})) < kTolerance);
  }
}

TEST_CASE("given positions are used") {
  auto tiny = make(kinds()[0]);
  const at::Tensor ids = random_ids(1, 6, 10), positions = at::arange(6, at::kLong).view({1, 1, 6});
  const at::Tensor plain = tiny.logits({.ids = ids});
  CHECK(error(tiny.logits({.ids = ids, .positions = positions}), plain) < kTolerance);
  // Rotary attention sees distances alone.
  CHECK(error(tiny.logits({.ids = ids, .positions = positions + 17}), plain) < 1e-4);
  CHECK(error(tiny.logits({.ids = ids, .positions = positions * 2}), plain) > 0.01);
}

TEST_CASE("gradients reach every parameter and equal finite differences") {
  for (const Kind& kind : kinds()) {
    CAPTURE(kind.model_type);
    auto tiny = make(kind, {}, true);
    const at::Tensor ids = random_ids(2, 9, 12), targets = ids.narrow(1, 1, 8).reshape({-1});
    const at::Tensor segments = at::tensor({0, 1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 0}, at::kLong).view({2, 9});
    const at::Tensor counted = segments.narrow(1, 1, 8).ne(0).reshape({-1}).to(at::kFloat);
    const auto loss = [&] {
      const at::Tensor hidden = tiny.hidden({.ids = ids, .segments = segments}).narrow(1, 0, 8).reshape({16, 24});
      return -(tiny.model->token_logprobs(hidden, targets) * counted).sum();
    };
    loss().backward();
    for (const auto& [name, parameter] : tiny.parts->parameters()) {
      CAPTURE(name);
      REQUIRE(parameter.grad().defined());
      CHECK(parameter.grad().isfinite().all().item<bool>());
      CHECK(parameter.grad().abs().max().item<double>() > 0);
      // Along the gradient the loss changes by its squared norm. In float32 with this step the quotient is good to a few percent.
      const c10::NoGradGuard no_grad;
      at::Tensor value = parameter;
      const double norm = parameter.grad().norm().item<double>(), step = 2e-3;
      const at::Tensor direction = parameter.grad() / norm;
      value.add_(direction, step);
      const double up = loss().item<double>();
      value.add_(direction, -2 * step);
      const double down = loss().item<double>();
      value.add_(direction, step);
      CHECK((up - down) / (2 * step) == doctest::Approx(norm).epsilon(0.05));
    }
  }
}

TEST_CASE("log-probabilities agree with the logits") {
  for (const Kind& kind : kinds()) {
    auto tiny = make(kind);
    const c10::NoGradGuard no_grad;
    const at::Tensor ids = random_ids(1, 8, 13), hidden = tiny.hidden({.ids = ids});
    const at::Tensor expected =
        at::log_softmax(tiny.model->logits(hidden)[0].narrow(0, 0, 7), -1).gather(1, ids[0].narrow(0, 1, 7).unsqueeze(1)).squeeze(1);
    CHECK(error(tiny.model->token_logprobs(hidden[0].narrow(0, 0, 7), ids[0].narrow(0, 1, 7)), expected) < kTolerance);
  }
}

TEST_CASE("bfloat16 with a float32 residual stays near float32") {
  for (const Kind& kind : kinds()) {
    if (family_of(kind.model_type).mixture.experts) continue;  // rounding may send a token to another expert
    auto exact = make(kind);
    const at::Tensor ids = random_ids(2, 10, 14), expected = exact.logits({.ids = ids});
    for (at::ScalarType residual : {at::kFloat, at::kBFloat16}) {
      auto tiny = make(kind, {.compute = at::kBFloat16, .residual = residual});
      const c10::NoGradGuard no_grad;
      State state = tiny.model->begin({.ids = ids}, nullptr);
      CHECK((state.hidden.scalar_type() == residual));
      tiny.model->run_block(0, 0, state);
      CHECK((state.hidden.scalar_type() == residual));
      const at::Tensor hidden = tiny.hidden({.ids = ids});
      CHECK((hidden.scalar_type() == at::kBFloat16));
      const at::Tensor logits = tiny.model->logits(hidden);
      CHECK((logits.scalar_type() == at::kFloat));
      // 8 bits of mantissa through three blocks.
      CHECK(error(logits, expected) < 0.1);
    }
  }
}

TEST_CASE("every operation goes through its seam") {
  for (const Kind& kind : kinds()) {
    auto tiny = make(kind);
    std::map<std::string, int> calls;
    std::set<std::string> norms;
    Seams& seams = tiny.model->seams();
    seams.embedding.wrap("count", [&](const EmbeddingArgs& a, const auto& next) { return ++calls["embedding"], next(a); });
    seams.rotary.wrap("count", [&](const RotaryArgs& a, const auto& next) { return ++calls["rotary"], next(a); });
    seams.attention.wrap("count", [&](const AttentionArgs& a, const auto& next) { return ++calls["attention"], next(a); });
    seams.norm.wrap("count", [&](const NormArgs& a, const auto& next) { return norms.insert(*a.path), ++calls["norm"], next(a); });
    seams.activation.wrap("count", [&](const ActivationArgs& a, const auto& next) { return ++calls["activation"], next(a); });
    seams.mlp.wrap("count", [&](const MlpArgs& a, const auto& next) { return ++calls["mlp"], next(a); });
    if (seams.router.is_set())
      seams.router.wrap("count", [&](const RouterArgs& a, const auto& next) { return ++calls["router"], next(a); });
    seams.block.wrap("count", [&](const BlockArgs& a, const auto& next) { return ++calls["block"], next(a); });
    seams.loss.wrap("count", [&](const LossArgs& a, const auto& next) { return ++calls["loss"], next(a); });
    const c10::NoGradGuard no_grad;
    const at::Tensor ids = random_ids(1, 4, 15);
    tiny.model->token_logprobs(tiny.hidden({.ids = ids})[0], ids[0]);
    std::set<std::string> named, called;
    for (const auto& name : tiny.model->blueprint().seams) named.insert(name);
    for (const auto& [name, count] : calls) called.insert(name);
    CHECK((named == called));
    seams.for_each([&](const auto& seam) { CHECK(seam.is_set() == (named.count(seam.name()) == 1)); });
    std::set<std::string> tensors;
    for (const auto& tensor : tiny.model->blueprint().tensors)
      if (tensor.kind == DenseKind::Norm) tensors.insert(tensor.path);
    CHECK((norms == tensors));
  }
}

TEST_CASE("ids outside the vocabulary and foreign caches are refused") {
  auto tiny = make(kinds()[0]);
  CHECK_THROWS_WITH_AS(tiny.logits({.ids = at::full({1, 2}, 53, at::kLong)}), "token id 53 is outside the vocabulary of 53", Error);
  const auto cache = tiny.model->make_cache(2, 4);
  CHECK_THROWS_AS(tiny.logits({.ids = random_ids(1, 2, 1)}, cache.get()), Error);
}

}  // namespace
}  // namespace tenon::llama
