#include "rope_scaling.h"

#include <doctest/doctest.h>

#include "tenon/error.h"

using namespace tenon;

namespace {
Value config_with(const char* key, Value rope) {
  Value config = Value::table();
  config.set("max_position_embeddings", int64_t{2048});
  config.set(key, std::move(rope));
  return config;
}
Value table(Value::Table entries) { return Value(std::move(entries)); }
}  // namespace

TEST_CASE("the config's table is replaced, its base kept, its context stretched") {
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    Value config = config_with(key, table({{"rope_type", "default"}, {"rope_theta", 500000.0}}));
    CHECK(rope::RopeScaling({.rope_type = "yarn", .factor = 4.0}).on_config(config));
    CHECK(config.find("rope_scaling") == nullptr);
    const Value& rope = config.at("rope_parameters");
    CHECK(rope.at("rope_type").as_string() == "yarn");
    CHECK(rope.at("rope_theta").as_float() == 500000.0);
    CHECK(rope.at("factor").as_float() == 4.0);
    CHECK(rope.at("original_max_position_embeddings").as_int() == 2048);
    CHECK(config.at("max_position_embeddings").as_int() == 8192);
  }
}

TEST_CASE("dynamic scaling measures from the context, which stays") {
  Value config = config_with("rope_theta", 10000.0);
  CHECK(rope::RopeScaling({.rope_type = "dynamic", .factor = 2.0}).on_config(config));
  CHECK(config.at("max_position_embeddings").as_int() == 2048);
  CHECK(config.at("rope_parameters").find("original_max_position_embeddings") == nullptr);
  CHECK(config.at("rope_parameters").find("rope_theta") == nullptr);  // it stands beside the table
}

TEST_CASE("what changes nothing says so, what cannot be is refused") {
  Value config = config_with("rope_parameters", table({{"rope_type", "linear"}, {"factor", 2.0}}));
  const Value before = config;
  CHECK(!rope::RopeScaling({.rope_type = "linear", .factor = 1.0}).on_config(config));
  CHECK(!rope::RopeScaling({.rope_type = "linear", .factor = 2.0}).on_config(config));
  CHECK((config == before));
  CHECK_THROWS_AS(rope::RopeScaling({.rope_type = "yarn"}).on_config(config), Error);
  CHECK_THROWS_AS(rope::RopeScaling({.rope_type = "longrope", .factor = 2.0}).on_config(config), Error);
}

TEST_CASE("of a model of several parts the text model's rotation is stretched, wherever the config says it") {
  for (const bool is_beside : {false, true}) {
    const Value rope = table({{"rope_type", "llama3"}, {"factor", 8.0}, {"rope_theta", 500000.0}});
    Value text = config_with("rope_scaling", is_beside ? Value() : rope), config = Value::table();
    config.set("text_config", text);
    if (is_beside) config.set("rope_parameters", rope), config.set("max_position_embeddings", int64_t{2048});
    CHECK(rope::RopeScaling({.rope_type = "yarn", .factor = 4.0}).on_config(config));
    CHECK(config.find("rope_parameters") == nullptr);
    CHECK(config.at("text_config").find("rope_scaling") == nullptr);
    const Value& found = config.at("text_config").at("rope_parameters");
    CHECK(found.at("rope_type").as_string() == "yarn");
    CHECK(found.at("rope_theta").as_float() == 500000.0);
    CHECK(found.at("original_max_position_embeddings").as_int() == 2048);
    CHECK(config.at("text_config").at("max_position_embeddings").as_int() == 8192);
    CHECK((config.find("max_position_embeddings") != nullptr) == is_beside);
    if (is_beside) CHECK(config.at("max_position_embeddings").as_int() == 8192);
  }
}
