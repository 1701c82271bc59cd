// `host check-plugin` as its users meet it. What the checks find is the business of tests/bad_plugins.
#include <cmath>

#include "base/json.h"
#include "support/errors.h"
#include "support/run_host.h"

#include <doctest/doctest.h>

namespace fs = std::filesystem;
using namespace tenon;
using namespace tenon::host;
using tenon::testing::contains;
using testing::run_host;

namespace {
// Any bundled quantizer will do; this is the one that every build has.
std::string quantizer_plugin() {
  const fs::path file = testing::build_dir() / "lib" / "tenon" / "plugins" / "libquant_nf4.so";
  return fs::exists(file) ? file.string() : "tenon.quant_nf4";  // linked in
}
}  // namespace

TEST_CASE("check-plugin says what is wrong with its command line") {
  CHECK(run_host({"check-plugin"}).status == 2);
  CHECK(contains(run_host({"check-plugin"}).err, "needs a FILE"));
  CHECK(contains(run_host({"check-plugin", "no/such/libmine.so"}).err, "there is no file 'no/such/libmine.so'"));
  CHECK(run_host({"check-plugin", "no/such/libmine.so"}).status == 2);
  CHECK(contains(run_host({"check-plugin", quantizer_plugin(), "--level", "9"}).err, "--level is 9, expected 1, 2 or 3"));
  const auto nothing = run_host({"check-plugin", quantizer_plugin(), "--only", "quantiser.*"});
  CHECK(nothing.status == 2);
  CHECK(contains(nothing.err, "matches no check"));
  CHECK(contains(run_host({"check-plugin", quantizer_plugin(), "--reproduce", "7", "--seed", "1"}).err, "goes without --only and --seed"));
}

TEST_CASE("check-plugin lists its checks") {
  const auto text = run_host({"check-plugin", "--list"});
  CHECK(text.status == 0);
  CHECK(contains(text.out, "quantizer.error_bound"));
  const Value list = parse_json(run_host({"check-plugin", "--list", "--json"}).out, "list");
  CHECK(list.as_list().size() > 40);
  CHECK(list.as_list()[0].at("id").as_string() == "file.manifest");
}

TEST_CASE("a file that is no plugin fails one check and is never run") {
  const testing::TempDir folder;
  const auto file = folder.write("libmine.so", "not a library");
  const auto result = run_host({"check-plugin", file, "--json"});
  CHECK(result.status == 4);
  const Value value = parse_json(result.out, "result");
  CHECK(value.at("ok").as_bool() == false);
  CHECK(value.at("counts").at("fail").as_int() == 1);
  CHECK(value.at("checks").as_list()[0].at("id").as_string() == "file.manifest");
}

TEST_CASE("some checks of a plugin, for people, programs and build servers") {
  const testing::TempDir folder;
  const std::string junit = folder.path() / "result.xml";
  const auto result = run_host({"check-plugin", quantizer_plugin(), "--only", "file.*", "--json", "--junit", junit, "--seed", "5"});
  CHECK(result.status == 0);
  const Value value = parse_json(result.out, "result");
  CHECK(value.at("ok").as_bool());
  CHECK(value.at("seed").as_int() == 5);
  CHECK(value.at("level").as_int() == 2);
  for (const Value& row : value.at("checks").as_list()) CHECK(row.at("id").as_string().starts_with("file."));
  CHECK(contains(testing::read_text(junit), "<testcase classname=\"file\" name=\"file.manifest\""));
  const auto text = run_host({"check-plugin", quantizer_plugin(), "--only", "file.s*"});
  const bool is_linked_in = quantizer_plugin()[0] != '/';
  CHECK(contains(text.out, is_linked_in ? "skip      file.stack" : "pass      file.stack"));
  CHECK(contains(text.out, is_linked_in ? "1 pass, 0 fail, 2 skip, 0 crash, 0 timeout" : "3 pass, 0 fail, 0 skip, 0 crash, 0 timeout"));
}

TEST_CASE("one random case runs again by its seed") {
  const auto result = run_host({"check-plugin", quantizer_plugin(), "--reproduce", "12345", "--json"});
  CHECK(result.status == 0);
  const Value value = parse_json(result.out, "result");
  CHECK(value.at("seed").as_int() == 12345);
  for (const Value& row : value.at("checks").as_list()) CHECK(row.at("id").as_string().starts_with("fuzz."));
}

TEST_CASE("a report sets a quantizer beside full precision") {
  const std::string recipe = testing::source_dir() / "examples" / "quickstart" / "recipe.toml";
  const auto result = run_host({"check-plugin", quantizer_plugin(), "--report", recipe, "--baseline", "fp4", "--json"});
  INFO(result.err);
  REQUIRE(result.status == 0);
  const Value report = parse_json(result.out, "report");
  CHECK(report.at("tokens").as_int() > 100);
  const auto& rows = report.at("rows").as_list();
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].at("kl_divergence").as_float() == 0);
  CHECK(rows[0].at("top1_agreement").as_float() == 1);
  CHECK(rows[0].at("bits_per_weight").as_float() >= 16);
  CHECK(rows[2].at("name").as_string() == "fp4");
  for (size_t i = 1; i < 3; ++i) {
    CHECK(rows[i].at("kl_divergence").as_float() > 0);
    CHECK(rows[i].at("bits_per_weight").as_float() > 4);
    CHECK(rows[i].at("bits_per_weight").as_float() < 5);
    CHECK(rows[i].at("decode_tokens_per_second").as_float() > 0);
  }
  // Full precision has the perplexity that `host eval` finds. Both read the same logits; one sums in float32, the other in float64.
  const testing::TempDir folder;
  const fs::path quickstart = testing::source_dir() / "examples" / "quickstart";
  const auto dense =
      folder.write("dense.toml", "[model]\npath = \"" + (quickstart / "model").string() + "\"\n[data]\neval = [\"" +
                                     (quickstart / "instructions_eval.jsonl").string() + "\"]\nformat = \"chat\"\nmax_length = 256\n");
  const auto eval = run_host({"eval", dense, "--json"});
  INFO(eval.err);
  REQUIRE(eval.status == 0);
  const double expected = parse_json(eval.out, "eval").at("perplexity").as_float();
  CHECK(std::abs(rows[0].at("perplexity").as_float() - expected) < 1e-3 * expected);
}
