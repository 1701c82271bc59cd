#include "base/options.h"

#include <doctest/doctest.h>

using namespace tenon;
using namespace tenon::host;

namespace {

struct Mine {
  int64_t block_size = 64;
  bool double_quant = false;
  double threshold = 6.0;
  std::string kind = "soft";
  std::vector<std::string> targets;
};

OptionTable table() {
  OptionTable all = option_table<Mine>({
      option(&Mine::block_size, "block_size", "Weights that share a scale.", one_of({32, 64, 128})),
      option(&Mine::double_quant, "double_quant", "Twice."),
      option(&Mine::threshold, "threshold", "Columns above it.", range(0, 10)),
      option(&Mine::kind, "kind", "How.", one_of({"soft", "hard"})),
      option(&Mine::targets, "targets", "Where.",
             checked([](const Value& v) { return v.as_list().size() > 2 ? std::string("at most two") : std::string(); })),
  });
  all.retired = {{"bits", "say it with the type"}};
  return all;
}

std::string first_problem(const Value& values) {
  const auto problems = check_options(
      table(), values, "quantizer mine", [](const Value& v) { return concat("r.toml:", v.place.line, ":", v.place.column); },
      [](const std::string& name) { return std::string(name == "damp_percent" ? "quantizer other" : ""); });
  return problems.empty() ? "" : problems.front();
}

Value one(const std::string& key, Value value) {
  value.place = {14, 1};
  return Value(Value::Table{{key, std::move(value)}});
}

}  // namespace

TEST_CASE("right options pass and reach the struct") {
  const Value values(
      Value::Table{{"block_size", 32}, {"double_quant", true}, {"threshold", 3}, {"targets", std::vector<std::string>{"a"}}});
  CHECK(first_problem(values).empty());
  const Mine read = read_options<Mine>(table(), values);
  CHECK(read.block_size == 32);
  CHECK(read.threshold == 3.0);
  CHECK(read.kind == "soft");
  CHECK(check_options(table(), Value(), "quantizer mine", [](const Value&) { return std::string(); }).empty());
}

TEST_CASE("each wrong option has its own text with a way forward") {
  CHECK(first_problem(one("blok_size", 64)) == "r.toml:14:1: unknown option 'blok_size' for quantizer mine, did you mean 'block_size'?");
  CHECK(first_problem(one("damp_percent", 0.1)) == "r.toml:14:1: 'damp_percent' is an option of quantizer other, not of quantizer mine");
  CHECK(first_problem(one("zzz", 1)) ==
        "r.toml:14:1: unknown option 'zzz' for quantizer mine, it has: block_size, double_quant, threshold, kind, targets");
  CHECK(first_problem(one("bits", 4)) == "r.toml:14:1: option 'bits' of quantizer mine: say it with the type");
  CHECK(first_problem(one("block_size", "64")) == "r.toml:14:1: option 'block_size' of quantizer mine: expected int, found string");
  CHECK(first_problem(one("block_size", 48)) ==
        "r.toml:14:1: option 'block_size' of quantizer mine: expected one of 32, 64, 128, found 48");
  CHECK(first_problem(one("block_size", 64.0)).find("expected int, found float") != std::string::npos);
  CHECK(first_problem(one("kind", "sotf")).find("found \"sotf\", did you mean 'soft'?") != std::string::npos);
  CHECK(first_problem(one("threshold", 10.5)).find("expected 0 to 10, found 10.5") != std::string::npos);
  CHECK(first_problem(one("targets", std::vector<std::string>{"a", "b", "c"})).find("at most two") != std::string::npos);
  CHECK(first_problem(one("targets", Value(Value::List{1}))).find("expected list of strings, found list with int in it") !=
        std::string::npos);
}

TEST_CASE("numbers that are none are refused even without a range") {
  struct Free {
    double x = 0;
  };
  const OptionTable free = option_table<Free>({option(&Free::x, "x", "Any.")});
  CHECK(check_value(free.rows[0], Value(1.0 / 0.0)) == "expected a finite number, found inf");
  CHECK(check_value(free.rows[0], Value(0.0 / 0.0 * 1.0)).rfind("expected a finite number", 0) == 0);
  CHECK(check_value(free.rows[0], Value(-1e300)).empty());
}

TEST_CASE("values print as TOML reads them") {
  CHECK(toml_text(Value(Value::Table{{"a", 1}, {"b c", Value(Value::List{true, 2.0, "q\"\n"})}})) ==
        "{ a = 1, \"b c\" = [true, 2.0, \"q\\\"\\n\"] }");
  CHECK(toml_text(Value(1e-8)) == "1e-08");
  CHECK(constraint_text(table().rows[0]) == "32 | 64 | 128");
  CHECK(constraint_text(table().rows[2]) == "0 to 10");
}
