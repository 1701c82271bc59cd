// LFM2 as a whole: what a token may see, caches and cuts of them, padding, packing, gradients, configs. Parity with transformers is tests/parity/test_vlm_lfm2.py.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv1d.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <doctest/doctest.h>

#include "architecture.h"
#include "blueprint.h"
#include "cache.h"
#include "short_conv.h"
#include "support/errors.h"
#include "support/tiny_model.h"

namespace tenon::lfm2 {
namespace {

using testing::contains;
using testing::error_of;

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

using Entries = std::initializer_list<Value::Entry>;

Value tiny_config(Entries extra = {}) {
  Value config = Value::table();
  config.set("vocab_size", 53), config.set("hidden_size", 24), config.set("block_ff_dim", 40), config.set("block_multiple_of", 6);
  config.set("num_hidden_layers", 4), config.set("num_attention_heads", 6), config.set("num_key_value_heads", 2);
  config.set("max_position_embeddings", 512), config.set("full_attn_idxs", Value::List{1, 3});
  for (const auto& [key, value] : extra) config.set(key, value);
  return config;
}

const std::vector<Value>& kinds() {
  static const std::vector<Value> all = {
      tiny_config(),
      tiny_config({{"conv_bias", true}, {"conv_L_cache", 5}, {"tie_embedding", false}}),
      tiny_config({{"full_attn_idxs", Value::List{}}, {"conv_L_cache", 4}}),
      tiny_config({{"layer_types", Value::List{"full_attention", "conv", "conv", "full_attention"}}, {"conv_L_cache", 1}, {"head_dim", 8}}),
      tiny_config({{"full_attn_idxs", nullptr}}),
  };
  return all;
}

testing::TinyModel make(const Value& config, bool trainable = false) {
  at::manual_seed(11);
  return {Lfm2Architecture(), config, {}, trainable};
}

at::Tensor random_ids(int64_t rows, int64_t tokens, uint64_t seed) {
  at::manual_seed(seed);
  return at::randint(0, 53, {rows, tokens}, at::kLong);
}

at::Tensor segment(int64_t number, int64_t tokens) { return at::full({1, tokens}, number, at::kLong); }

TEST_CASE("a token does not see those after it") {
  for (const Value& kind : kinds()) {
    auto tiny = make(kind);
    const at::Tensor ids = random_ids(2, 13, 1), before = tiny.logits({.ids = ids});
    at::Tensor changed = ids.clone();
    changed.narrow(1, 7, 6).copy_((changed.narrow(1, 7, 6) + 1).remainder(53));
    const at::Tensor after = tiny.logits({.ids = changed});
    CHECK(error(after.narrow(1, 0, 7), before.narrow(1, 0, 7)) < kTolerance);
    CHECK(error(after.narrow(1, 7, 6), before.narrow(1, 7, 6)) > 0.01);
  }
}

TEST_CASE("a cache gives what the full pass gives: token by token, in pieces, after a step back") {
  for (const Value& kind : kinds()) {
    auto tiny = make(kind);
    const at::Tensor ids = random_ids(2, 12, 2), full = tiny.logits({.ids = ids});
    for (const std::vector<int64_t>& pieces :
         {std::vector<int64_t>(12, 1), std::vector<int64_t>{5, 1, 1, 4, 1}, std::vector<int64_t>{12}}) {
      const auto cache = tiny.model->make_cache(2, 14);
      std::vector<at::Tensor> outputs;
      for (int64_t at = 0; int64_t size : pieces) outputs.push_back(tiny.logits({.ids = ids.narrow(1, at, size)}, cache.get())), at += size;
      CHECK(error(at::cat(outputs, 1), full) < kTolerance);
      cache->truncate(9);
      CHECK(error(tiny.logits({.ids = ids.narrow(1, 9, 3)}, cache.get()), full.narrow(1, 9, 3)) < kTolerance);
      CHECK_THROWS_AS(tiny.logits({.ids = ids.narrow(1, 0, 3)}, cache.get()), Error);
    }
  }
}

TEST_CASE("a long sequence: what convolutions remember wraps around, cuts within it are right, others are refused") {
  auto tiny = make(kinds()[1]);
  const int64_t length = 3 * ConvCache::kStepsBack + 5, reach = 4;
  const at::Tensor ids = random_ids(1, length + 8, 3), full = tiny.logits({.ids = ids});
  const auto cache = tiny.model->make_cache(1, length + 8);
  const auto run = [&](int64_t first, int64_t count) {
    CHECK(cache->length() == first);
    CHECK(error(tiny.logits({.ids = ids.narrow(1, first, count)}, cache.get()), full.narrow(1, first, count)) < kTolerance);
  };
  run(0, 100), run(100, 1), run(101, 70);
  for (int64_t t = 171; t < length; ++t) run(t, 1);
  const std::string refusal = error_of([&] { cache->truncate(length - ConvCache::kStepsBack - 1); }, ErrorCode::Internal);
  CHECK(contains(refusal, concat("cannot be cut to ", length - ConvCache::kStepsBack - 1)));
  CHECK(contains(refusal, concat("cut to ", length - ConvCache::kStepsBack, " or more, or to 0")));
  CHECK(cache->length() == length);
  cache->truncate(length - ConvCache::kStepsBack);
  run(length - ConvCache::kStepsBack, 3), run(length - ConvCache::kStepsBack + 3, 1);
  // What was overwritten does not come back.
  CHECK(error_of([&] { cache->truncate(length - ConvCache::kStepsBack - reach); }) != "no error");
  cache->truncate(0);
  run(0, 7), run(7, 1);
}

TEST_CASE("a pass that was never finished leaves the cache as it was") {
  auto tiny = make(kinds()[0]);
  const at::Tensor ids = random_ids(1, 9, 4), full = tiny.logits({.ids = ids});
  const auto cache = tiny.model->make_cache(1, 9);
  tiny.logits({.ids = ids.narrow(1, 0, 5)}, cache.get());
  {
    const c10::NoGradGuard no_grad;
    State state = tiny.model->begin({.ids = random_ids(1, 4, 5)}, cache.get());
    for (int64_t i = 0; i < 4; ++i) tiny.model->run_block(0, i, state);
  }
  CHECK(error(tiny.logits({.ids = ids.narrow(1, 5, 4)}, cache.get()), full.narrow(1, 5, 4)) < kTolerance);
}

TEST_CASE("padding in front and behind changes nothing, with a cache and without") {
  for (const Value& kind : kinds()) {
    auto tiny = make(kind);
    const at::Tensor ids = random_ids(1, 9, 6), more = random_ids(1, 3, 7), pad = random_ids(1, 4, 8);
    const at::Tensor full = tiny.logits({.ids = at::cat({ids, more}, 1)}), first = full.narrow(1, 0, 9);
    const at::Tensor behind = at::cat({segment(1, 9), segment(0, 4)}, 1), before = at::cat({segment(0, 4), segment(1, 9)}, 1);
    CHECK(error(tiny.logits({.ids = at::cat({ids, pad}, 1), .segments = behind}).narrow(1, 0, 9), first) < kTolerance);
    CHECK(error(tiny.logits({.ids = at::cat({pad, ids}, 1), .segments = before}).narrow(1, 4, 9), first) < kTolerance);
    const auto cache = tiny.model->make_cache(1, 20);
    CHECK(error(tiny.logits({.ids = at::cat({pad, ids}, 1), .segments = before}, cache.get()).narrow(1, 4, 9), first) < kTolerance);
    for (int64_t t = 0; t < 3; ++t)
      CHECK(error(tiny.logits({.ids = more.narrow(1, t, 1)}, cache.get()), full.narrow(1, 9 + t, 1)) < kTolerance);
    // A prompt shorter than the convolution behind its padding.
    const auto other = tiny.model->make_cache(1, 20);
    tiny.logits({.ids = at::cat({pad, ids.narrow(1, 0, 1)}, 1), .segments = at::cat({segment(0, 4), segment(1, 1)}, 1)}, other.get());
    CHECK(error(tiny.logits({.ids = ids.narrow(1, 1, 2)}, other.get()), full.narrow(1, 1, 2)) < kTolerance);
  }
}

TEST_CASE("packed documents do not see each other, forward and backward") {
  for (const Value& kind : kinds()) {
    auto tiny = make(kind, true);
    const at::Tensor a = random_ids(1, 5, 9), b = random_ids(1, 2, 10), c = random_ids(1, 6, 11);
    const at::Tensor packed =
        tiny.hidden({.ids = at::cat({a, b, c}, 1), .segments = at::cat({segment(1, 5), segment(2, 2), segment(3, 6)}, 1)});
    const at::Tensor alone = at::cat({tiny.hidden({.ids = a}), tiny.hidden({.ids = b}), tiny.hidden({.ids = c})}, 1);
    CHECK(error(packed, alone) < kTolerance);
    const auto gradients = [&](const at::Tensor& hidden) {
      for (const auto& [name, parameter] : tiny.parts->parameters()) parameter.mutable_grad() = at::Tensor();
      at::manual_seed(12);
      (hidden * at::randn(hidden.sizes())).sum().backward();
      std::vector<at::Tensor> all;
      for (const auto& [name, parameter] : tiny.parts->parameters())
        if (parameter.grad().defined()) all.push_back(parameter.grad().clone());
      return all;
    };
    const auto together = gradients(packed), apart = gradients(alone);
    REQUIRE(together.size() == apart.size());
    for (size_t i = 0; i < together.size(); ++i) CHECK(error(together[i], apart[i]) < 1e-4);  // sums over all tokens
  }
}

TEST_CASE("gradients reach every weight") {
  for (const Value& kind : kinds()) {
    auto tiny = make(kind, true);
    const at::Tensor hidden = tiny.hidden({.ids = at::arange(53, at::kLong).unsqueeze(0)});
    tiny.model->token_logprobs(hidden.squeeze(0), at::arange(53, at::kLong)).sum().backward();
    for (const auto& [name, parameter] : tiny.parts->parameters()) {
      CAPTURE(name);
      REQUIRE(parameter.grad().defined());
      CHECK(parameter.grad().abs().max().item<double>() > 0);
    }
  }
}

TEST_CASE("the convolution is LibTorch's, bfloat16 summed in float32") {
  at::manual_seed(1);
  for (const int64_t kernel : {1, 3, 4}) {
    const at::Tensor x = at::randn({2, kernel - 1 + 7, 5}), weight = at::randn({5, 1, kernel}), bias = at::randn({5});
    const at::Tensor expected =
        at::conv1d(x.transpose(1, 2), weight, bias, at::IntArrayRef{1}, at::IntArrayRef{0}, at::IntArrayRef{1}, 5).transpose(1, 2);
    CHECK(error(short_conv(x, weight, bias, {}), expected) < kTolerance);
    const at::Tensor low = x.to(at::kBFloat16);
    const at::Tensor rounded = short_conv(low, weight.to(at::kBFloat16), {}, {});
    CHECK((rounded.scalar_type() == at::kBFloat16));
    CHECK(rounded.equal(short_conv(low.to(at::kFloat), weight.to(at::kBFloat16).to(at::kFloat), {}, {}).to(at::kBFloat16)));
  }
}

TEST_CASE("which tokens are of one's own segment, those of the cache too") {
  const at::Tensor segments = at::tensor({1, 2, 2}, at::kLong).unsqueeze(0), keys = at::tensor({0, 1, 1, 2, 2}, at::kLong).unsqueeze(0);
  const at::Tensor sees = same_segment(segments, keys, 2).to(at::kLong);
  CHECK(sees.equal(at::tensor({0, 1, 0, 0, 0, 1}, at::kLong).view({1, 3, 2})));
  CHECK(same_segment(segments, segments, 3).select(1, 0).logical_not().all().item<bool>());
}

TEST_CASE("absent keys take the class's defaults") {
  const Config c = read_config(Value::table());
  CHECK(c.vocab_size == 65536);
  CHECK(c.hidden == 2560);
  CHECK(c.intermediate == 8192);  // 12288 * 2 / 3, a multiple of 256
  CHECK(c.layers == 32);
  CHECK(c.heads == 32);
  CHECK(c.kv_heads == 8);
  CHECK(c.head_dim == 80);
  CHECK(c.max_positions == 128000);
  CHECK(c.eps == 1e-5);
  CHECK((c.tied && !c.conv_bias && c.kernel == 3 && c.attention_layers() == 32));
  CHECK(c.rotary.inv_freq[1].item<double>() == doctest::Approx(std::pow(1e6, -2.0 / 80)));
}

TEST_CASE("the mlp's width as the reference counts it") {
  const auto width = [](Entries extra) { return read_config(tiny_config(extra)).intermediate; };
  CHECK(width({{"block_ff_dim", 6656}, {"block_multiple_of", 256}}) == 4608);
  CHECK(width({{"block_ff_dim", 6656}, {"block_multiple_of", 256}, {"block_ffn_dim_multiplier", 1.3}}) == 5888);
  CHECK(width({{"block_ff_dim", 100}}) == 66);
  CHECK(width({{"block_ff_dim", 100}, {"block_auto_adjust_ff_dim", false}}) == 100);
  Value plain = tiny_config({{"intermediate_size", 101}, {"block_auto_adjust_ff_dim", false}});
  CHECK(read_config(plain).intermediate == 40);  // block_ff_dim wins
  plain.erase("block_ff_dim");
  CHECK(read_config(plain).intermediate == 101);
}

TEST_CASE("layer_types wins over full_attn_idxs, the older spelling of tying over the newer") {
  CHECK(read_config(tiny_config()).attends == std::vector<bool>{false, true, false, true});
  const Value::List types = {"full_attention", "conv", "conv", "conv"};
  CHECK(read_config(tiny_config({{"layer_types", types}})).attends == std::vector<bool>{true, false, false, false});
  CHECK_FALSE(read_config(tiny_config({{"tie_embedding", false}, {"tie_word_embeddings", true}})).tied);
}

TEST_CASE("what would run wrong is refused by name") {
  const auto refusal = [](Entries extra) { return error_of([&] { read_config(tiny_config(extra)); }, ErrorCode::Data); };
  CHECK(contains(refusal({{"layer_types", Value::List{"conv", "conv", "conv", "sliding_attention"}}}),
                 "layer_types[3] is \"sliding_attention\", expected conv or full_attention"));
  CHECK(contains(refusal({{"layer_types", Value::List{"conv"}}}), "layer_types has 1 entries, expected num_hidden_layers (4)"));
  CHECK(contains(refusal({{"full_attn_idxs", Value::List{"1"}}}), "full_attn_idxs is"));
  CHECK(contains(refusal({{"is_causal", false}}), "is_causal is false, expected true"));
  CHECK(contains(refusal({{"num_key_value_heads", 4}}), "num_key_value_heads is 4, expected a divisor of num_attention_heads (6)"));
  CHECK(contains(refusal({{"hidden_size", 25}}), "hidden_size is 25, expected a multiple of num_attention_heads (6)"));
  CHECK(contains(refusal({{"conv_L_cache", 0}}), "conv_L_cache is 0, expected 1 to"));
  CHECK(contains(refusal({{"block_ffn_dim_multiplier", 0.0}}), "make an mlp 0 wide"));
  CHECK(contains(refusal({{"architectures", Value::List{"Lfm2ForSequenceClassification"}}}), "other heads are not supported"));
}

}  // namespace
}  // namespace tenon::lfm2
