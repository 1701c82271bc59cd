#include "recipe/toml.h"

#include "base/options.h"

#include <doctest/doctest.h>

using namespace tenon;
using namespace tenon::host;

namespace {
std::string problem(std::string_view text) {
  try {
    parse_toml(text, "r.toml");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::Recipe);
    return error.message();
  }
  return "";
}
}  // namespace

TEST_CASE("toml keeps the file's order and every key's place") {
  const Value v = parse_toml("[z]\nb = 1\na = 2.0\n[a]\nx = { k2 = true, k1 = [\"s\", 'l'] }\n[[p]]\nq = 1\n[[p]]\nq = 2\n", "r.toml");
  CHECK(toml_text(v) == "{ z = { b = 1, a = 2.0 }, a = { x = { k2 = true, k1 = [\"s\", \"l\"] } }, p = [{ q = 1 }, { q = 2 }] }");
  CHECK(v.at("z").at("a").place.line == 3);
  CHECK(v.at("z").at("a").place.column == 1);
  CHECK(v.at("a").at("x").at("k1").place.column == 18);
  CHECK(v.at("p").as_list()[1].place.line == 8);
}

TEST_CASE("toml that cannot be read says where") {
  CHECK(problem("x = \n").rfind("r.toml:1:", 0) == 0);
  CHECK(problem("[a]\nx = 1\nx = 2\n").rfind("r.toml:3:", 0) == 0);
  CHECK(problem("a = 1\n\n[b]\nd = 2024-01-01\n").find("r.toml:4:5: a date or time") != std::string::npos);
  CHECK(problem("a = \"\xff\"").rfind("r.toml:1:", 0) == 0);
}

TEST_CASE("toml++ may be surprised, its users are not") {
  CHECK(problem("a = 1\n[\nb]\n") == "r.toml:2:1: this is no TOML");
  CHECK(problem("[#x") == "r.toml:1:1: this is no TOML");
  CHECK(problem("# \xc3\xa9\na = '\xc3\xa9'\ncl\xc3\xa9 = 1") == "r.toml:3:3: a character outside ASCII must stand in quotes");
  CHECK(problem("\xef\xbb\xbf"
                "a = \"\xc3\xa9\" # \xc3\xa9\nb = [\"\"\"\n\xc3\xa9\"\"\"\", \"\xc3\xa9\"]")
            .empty());
}

TEST_CASE("a line of a string that goes on with a letter outside ASCII") {
  for (const char* letter : {"\xc2\xa1", "\xc3\xa9", "\xd2\x99", "\xe1\xa0\x80", "\xe2\x81\xa1", "\xe3\x80\x81", "\xef\xbb\xbf\xef\xbb\xbe",
                             "\xf0\x9f\x98\x80"}) {
    CAPTURE(letter);
    const std::string want = letter[0] == '\xef' ? "\xef\xbb\xbe" : letter;  // a byte order mark counts as white space
    CHECK(parse_toml(concat("a = \"\"\"b \\\n  ", letter, "\"\"\""), "r.toml").at("a").as_string() == "b " + want);
  }
}

TEST_CASE("nesting is bounded before it can hurt") {
  std::string key = "a";
  for (int i = 0; i < 500000; ++i) key += ".a";
  CHECK(problem(key + " = 1") == "r.toml:1:66: a key of more than 32 parts");
  CHECK(problem("\n[" + key + "]") == "r.toml:2:67: a key of more than 32 parts");
  CHECK(problem("x = " + std::string(100000, '[')).find("exceeded maximum nested value depth") != std::string::npos);
  CHECK(problem("x = {y = {z.a = 1, " + key + " = 1}}").find("more than 32 parts") != std::string::npos);
  CHECK(problem(std::string((4 << 20) + 1, ' ')).find("any sensible recipe") != std::string::npos);
  // Dots of values and comments are none of keys.
  const std::string dots(500, '.');
  CHECK(problem("a = \"" + dots + "\"\nb = '" + dots + "'\nc = \"\"\"\n" + dots + "\\\"\n\"\"\"\nd = '''\n" + dots + "'''\n# " + dots +
                "\ne = [1.5, 2.5]")
            .empty());
}

TEST_CASE("a single value is toml or nothing") {
  CHECK(parse_toml_value("1e-4")->as_float() == 1e-4);
  CHECK(parse_toml_value("[1, 2]")->as_list().size() == 2);
  CHECK(parse_toml_value("\"s\"")->as_string() == "s");
  for (const char* none : {"cosine", "", "1\ny = 2", "1 #\n[t]", "a b"}) CHECK_FALSE(parse_toml_value(none).has_value());
}
