#include "recipe/settings.h"

#include "base/options.h"
#include "recipe/toml.h"

#include <doctest/doctest.h>

using namespace tenon;
using namespace tenon::host;

namespace {
// The recipe after a setting, or what is wrong.
std::string after(const char* toml, const char* setting) {
  Value recipe = parse_toml(toml, "r.toml");
  const std::string wrong = apply_setting(parse_setting(setting), {0, 1}, recipe);
  return wrong.empty() ? toml_text(recipe) : wrong;
}
}  // namespace

TEST_CASE("a setting changes, adds and makes tables") {
  CHECK(after("[train]\nseed = 1", "train.seed=2") == "{ train = { seed = 2 } }");
  CHECK(after("", "train.learning_rate=1e-4") == "{ train = { learning_rate = 0.0001 } }");
  CHECK(after("", "train.lr_scheduler_type=cosine") == "{ train = { lr_scheduler_type = \"cosine\" } }");
  CHECK(after("", "data.train=[\"a=b\"]") == "{ data = { train = [\"a=b\"] } }");
  CHECK(after("", "x.y= ") == "{ x = { y = \" \" } }");
  CHECK(after("", "model.max_memory.\"cuda:0\"=20GiB") == "{ model = { max_memory = { \"cuda:0\" = \"20GiB\" } } }");
  CHECK(after("[[patch]]\na = 1\n[[patch]]\na = 2", "patch.1.a=3") == "{ patch = [{ a = 1 }, { a = 3 }] }");
  CHECK(after("[patch]\na = 1", "patch.0.a=3") == "{ patch = { a = 3 } }");
}

TEST_CASE("a setting that leads nowhere says why") {
  CHECK(after("[[patch]]\na = 1", "patch.a=3") == "'patch' is a list of 1: write patch.0.a");
  CHECK(after("[[patch]]\na = 1", "patch.1.a=3") == "'patch' has 1 entry, counted from 0");
  CHECK(after("[patch]\na = 1", "patch.1.a=3") == "'patch' has 1 entry, counted from 0");
  CHECK(after("[patch]\na = 1", "patch.a.b=3") == "'patch.a' is no table");
  CHECK(after("[patch]\na = 1", "patch.0=3") == "'patch.0' is a table: name a key of it");
  for (const char* wrong : {"train.seed", "=3", "  = 3", ""}) CHECK_THROWS_AS(parse_setting(wrong), Error);
}

TEST_CASE("values of a setting stand at its place") {
  Value recipe = parse_toml("[a]\nb = 1", "r.toml");
  CHECK(apply_setting(parse_setting("a.b={c = [1]}"), place_of_setting(2), recipe).empty());
  const Value& set = recipe.at("a").at("b");
  CHECK(set.place.line == 0);
  CHECK(set.place.column == 3);
  CHECK(set.at("c").as_list()[0].place.column == 3);
  CHECK(setting_key("a.\"b=c\" = 4") == "a.\"b=c\"");
}
