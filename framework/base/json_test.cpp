#include "base/json.h"

#include "tenon/error.h"

#include <doctest/doctest.h>

using namespace tenon;
using namespace tenon::host;

namespace {
std::string problem(std::string_view text, const JsonLimits& limits = {}) {
  try {
    parse_json(text, "f.json", limits);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::Data);
    return error.message();
  }
  return "";
}
}  // namespace

TEST_CASE("json keeps order, types and exact numbers") {
  const Value v = parse_json(R"({"z": 1, "a": [true, null, 0.1, -3, "x\u00e9"], "big": 9223372036854775807, "m": {}})", "f.json");
  REQUIRE(v.is_table());
  CHECK(v.as_table()[0].first == "z");
  CHECK(v.as_table()[1].first == "a");
  CHECK(v.at("big").as_int() == INT64_MAX);
  CHECK(v.at("a").as_list()[2].as_float() == 0.1);
  CHECK(v.at("a").as_list()[1].is_null());
  CHECK(to_json(v) == "{\"z\":1,\"a\":[true,null,0.1,-3,\"x\xc3\xa9\"],\"big\":9223372036854775807,\"m\":{}}");
}

TEST_CASE("json problems carry line and column") {
  CHECK(problem("{\n  \"a\": 1,\n  \"a\": 2\n}").rfind("f.json:3:5: key 'a' stands twice", 0) == 0);
  CHECK(problem("{\"a\": }").rfind("f.json:1:7: ", 0) == 0);
  CHECK(problem("").rfind("f.json:1:1: ", 0) == 0);
  CHECK(problem("[1]x").rfind("f.json:1:4: ", 0) == 0);
}

TEST_CASE("json is bounded in depth and number of values") {
  CHECK(problem(std::string(100000, '[')).find("nested more than 64 deep") != std::string::npos);
  CHECK(problem(std::string(100000, '{')).find("f.json:1:") != std::string::npos);
  CHECK(problem("[1,2,3]", {.max_depth = 4, .max_values = 2}).find("more than 2 values") != std::string::npos);
  CHECK(problem(std::string(64, '[') + std::string(64, ']')).empty());
}

TEST_CASE("json writes what cannot be written as null or a replacement character") {
  CHECK(to_json(Value(1.0 / 0.0 * 0.0)) == "null");
  CHECK(to_json(Value("\xff")) == "\"\xef\xbf\xbd\"");
}
