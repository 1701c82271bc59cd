#include "resize.h"

#include <doctest/doctest.h>

#include "support/errors.h"
#include "tenon/error.h"
#include "tenon/new_rows.h"

using namespace tenon;

namespace {
Value config_of(int64_t vocabulary) {
  Value config = Value::table();
  config.set("vocab_size", vocabulary);
  return config;
}

Blueprint decoder(int64_t rows, bool tied) {
  Blueprint b;
  b.vocab_size = rows;
  SlotSpec embedding{.path = "model.embed_tokens", .kind = SlotKind::Embedding, .role = SlotRole::InputEmbedding, .out = rows, .in = 4};
  embedding.sources = {Source::rename("model.embed_tokens.weight"), Source::rename("old.weight")};
  SlotSpec head{.path = "lm_head", .role = SlotRole::OutputHead, .out = rows, .in = 4};
  head.sources = {Source::rename("lm_head.weight")};
  if (tied) head.tied_to = "model.embed_tokens", head.sources.clear();
  SlotSpec inner{.path = "model.layers.0.mlp.up_proj", .out = rows, .in = 4};
  inner.sources = {Source::rename("model.layers.0.mlp.up_proj.weight")};
  b.slots = {embedding, inner, head};
  return b;
}
}  // namespace

TEST_CASE("the config grows to the tokens, rounded up, and never shrinks") {
  auto grown = [](resize::Options options, int64_t from) {
    Value config = config_of(from);
    const bool changed = resize::ResizeEmbeddings(options).on_config(config);
    CHECK(changed == (config.at("vocab_size").as_int() != from));
    return config.at("vocab_size").as_int();
  };
  CHECK(grown({.new_num_tokens = 103}, 100) == 103);
  CHECK(grown({.new_num_tokens = 103, .pad_to_multiple_of = 8}, 100) == 104);
  CHECK(grown({.pad_to_multiple_of = 64}, 100) == 128);
  CHECK(grown({.new_num_tokens = 90}, 100) == 100);
  CHECK(grown({.new_num_tokens = 96, .pad_to_multiple_of = 25}, 100) == 100);
}

TEST_CASE("of a model of several parts the text model's vocabulary grows") {
  Value config = Value::table();
  config.set("text_config", config_of(100));
  config.set("vocab_size", int64_t{100});
  CHECK(resize::ResizeEmbeddings({.new_num_tokens = 103}).on_config(config));
  CHECK(config.at("text_config").at("vocab_size").as_int() == 103);
  CHECK(config.at("vocab_size").as_int() == 103);
  Value without = Value::table();
  CHECK_THROWS_AS(resize::ResizeEmbeddings({.new_num_tokens = 103}).on_config(without), Error);
}

TEST_CASE("embedding and head get rows that no file holds, in every layout; what is tied or inner stays") {
  for (const bool tied : {false, true}) {
    Value config = config_of(100);
    resize::ResizeEmbeddings patch({.new_num_tokens = 103, .mean_resizing = !tied});
    REQUIRE(patch.on_config(config));
    Blueprint b = decoder(103, tied);
    CHECK(patch.on_blueprint(b));
    for (const Source& source : b.slots[0].sources) {
      const GrownSource grown = split_new_rows(source);
      CHECK(grown.new_rows == 3);
      CHECK(grown.how == (tied ? NewRows::Normal : NewRows::Mean));
      REQUIRE(grown.stored.pieces.size() == 1);
      CHECK(grown.stored.pieces[0].length == 100);
    }
    CHECK(b.slots[1].sources[0].pieces.size() == 1);
    CHECK(b.slots[2].sources.size() == (tied ? 0 : 1));
    if (!tied) CHECK(split_new_rows(b.slots[2].sources[0]).new_rows == 3);
  }
}

TEST_CASE("what it cannot grow is refused") {
  Value config = config_of(100);
  resize::ResizeEmbeddings patch({.new_num_tokens = 103});
  REQUIRE(patch.on_config(config));
  Blueprint otherwise = decoder(100, false), biased = decoder(103, false), fused = decoder(103, false);
  CHECK_THROWS_AS(patch.on_blueprint(otherwise), Error);
  Blueprint taller = decoder(111, false);
  CHECK(testing::contains(testing::error_of([&] { patch.on_blueprint(taller); }), "has 8 rows more than vocab_size (103)"));
  biased.slots[2].bias = true;
  CHECK_THROWS_AS(patch.on_blueprint(biased), Error);
  fused.slots[2].sources[0].pieces.push_back({"more.weight"});
  CHECK_THROWS_AS(patch.on_blueprint(fused), Error);
}
