#include "model/freeze.h"

#include <doctest/doctest.h>

#include "recipe/recipe.h"
#include "support/errors.h"

using namespace tenon;
using namespace tenon::host;
using tenon::testing::contains;
using tenon::testing::error_of;

namespace {

using Paths = std::set<std::string>;

// A tower, a projector, and a text model whose head is tied.
Blueprint sees() {
  Blueprint b;
  b.slots = {{.path = "model.embed_tokens", .role = SlotRole::InputEmbedding},
             {.path = "model.vision_tower.layers.0.fc1", .part = "vision"},
             {.path = "model.projector.linear_1", .part = "projector"},
             {.path = "model.layers.0.up"},
             {.path = "model.layers.10.up"},
             {.path = "lm_head", .role = SlotRole::OutputHead, .tied_to = "model.embed_tokens"}};
  b.tensors = {{.path = "model.vision_tower.layers.0.layer_norm1.weight", .part = "vision"}, {.path = "model.norm.weight"}};
  return b;
}

Paths frozen(std::vector<std::string> names) { return frozen_paths(sees(), names); }

}  // namespace

TEST_CASE("parts, modules and regular expressions freeze, and what is tied freezes together") {
  CHECK(frozen({}).empty());
  CHECK((frozen({"vision"}) == Paths{"model.vision_tower.layers.0.fc1", "model.vision_tower.layers.0.layer_norm1.weight"}));
  CHECK(frozen({"vision"}) == frozen({"vision_tower"}));
  CHECK(frozen({"vision"}) == frozen({"model.vision_tower"}));
  // Whole components: 1 is not the beginning of 10.
  CHECK((frozen({"model.layers.10"}) == Paths{"model.layers.10.up"}));
  CHECK((frozen({R"(model\.layers\.\d\..*)"}) == Paths{"model.layers.0.up"}));
  CHECK((frozen({"lm_head"}) == Paths{"lm_head", "model.embed_tokens"}));
  CHECK(frozen({"embed_tokens"}) == frozen({"lm_head"}));
  CHECK((frozen({"language", "projector"}) == Paths{"lm_head", "model.embed_tokens", "model.layers.0.up", "model.layers.10.up",
                                                    "model.norm.weight", "model.projector.linear_1"}));
}

TEST_CASE("names that freeze nothing are reported together, with the nearest") {
  const std::string text = error_of([] { frozen({"visoin", "model.vision_towr", "vision"}); }, ErrorCode::Recipe);
  CHECK(contains(text, "nothing in this model is called 'visoin', did you mean 'vision'?"));
  CHECK(contains(text, "nothing in this model is called 'model.vision_towr', did you mean 'model.vision_tower'?"));
  CHECK(contains(error_of([] { frozen({"(vision"}); }), "neither a module's name nor a regular expression"));
  CHECK(contains(error_of([] { frozen({".*"}); }), "nothing is left to train"));
  // A model without parts has none called "language".
  Blueprint plain = sees();
  for (auto& slot : plain.slots) slot.part.clear();
  for (auto& tensor : plain.tensors) tensor.part.clear();
  CHECK(contains(error_of([&] { frozen_paths(plain, {"language"}); }), "nothing in this model is called 'language'"));
}

TEST_CASE("the names are the recipe's, and have no place beside an adapter") {
  const auto recipe = [](const std::string& more) {
    return parse_recipe("[model]\npath = \"m\"\n[data]\ntrain = [\"d\"]\n[train]\n" + more, "r.toml");
  };
  CHECK((recipe("freeze = [\"a\", \"b\"]\n").train->freeze == std::vector<std::string>{"a", "b"}));
  CHECK(recipe("").train->freeze.empty());
  CHECK(contains(error_of([&] { recipe("freeze = [\"a\"]\n[adapter]\ntype = \"x\"\n"); }), "r.toml:6:"));
  CHECK(contains(error_of([&] { recipe("freeze = [\"\"]\n"); }), "found an empty one"));
}
