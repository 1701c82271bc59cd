#include "conformance/runner.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>

#include "conformance/results.h"
#include "support/errors.h"
#include "support/temp_dir.h"
#include "tenon/json.h"

#include <doctest/doctest.h>

using namespace tenon;
using namespace tenon::conformance;
using tenon::testing::contains;

namespace {

// A child that answers as its script says; $1 is the id, $2 the subject. `alone` is a file it may leave behind to know a second start.
struct FakeChild {
  testing::TempDir folder;
  RunnerOptions options;
  explicit FakeChild(const std::string& answers, double timeout_seconds = 60) {
    const auto script = folder.write("child.sh", "dir=" + folder.path().string() +
                                                     "\necho started >> $dir/starts\n"
                                                     "while IFS=\"$(printf '\\t')\" read -r id subject; do case \"$id\" in\n" +
                                                     answers + "\n*) printf 'pass\\n' ;;\nesac; done\n");
    options.command = {"/bin/sh", script.string()};
    options.timeout_seconds = timeout_seconds;
  }
  int64_t starts() const {
    std::ifstream in(folder.path() / "starts");
    return std::count(std::istreambuf_iterator<char>(in), {}, '\n');
  }
};

std::vector<Provided> some_provides() { return {{"quantizer", "mine", {}}, {"patch", "other", {}}}; }

std::vector<std::string> ids(const std::vector<Planned>& plan) {
  std::vector<std::string> all;
  for (const auto& planned : plan) all.push_back(planned.id + "@" + planned.subject);
  return all;
}

}  // namespace

TEST_CASE("a group shares a child, groups and subjects do not") {
  FakeChild child("a.fails) printf 'fail\\tfirst\\\\nsecond\\n' ;; a.skips) printf 'skip\\tnot here\\n' ;;");
  const auto results =
      run_checks({{"a.one", "", ""}, {"a.fails", "", ""}, {"a.skips", "", ""}, {"b.one", "x", ""}, {"b.one", "y", ""}}, child.options);
  REQUIRE(results.size() == 5);
  CHECK(results[0].outcome == Outcome::Pass);
  CHECK(results[1].outcome == Outcome::Fail);
  CHECK(results[1].reason == "first\nsecond");
  CHECK(results[2].outcome == Outcome::Skip);
  CHECK(results[2].reason == "not here");
  CHECK(results[4].subject == "y");
  CHECK(child.starts() == 3);
}

TEST_CASE("a crash is one check's, and the rest of its group run alone") {
  FakeChild child("a.crashes) echo last words >&2; kill -SEGV $$ ;;");
  const auto results = run_checks({{"a.one", "", ""}, {"a.crashes", "", ""}, {"a.two", "", ""}, {"a.three", "", ""}}, child.options);
  CHECK(results[0].outcome == Outcome::Pass);
  CHECK(results[1].outcome == Outcome::Crash);
  CHECK(contains(results[1].reason, "SIGSEGV"));
  CHECK(contains(results[1].reason, "last words"));
  CHECK(results[2].outcome == Outcome::Pass);
  CHECK(results[3].outcome == Outcome::Pass);
  // Together; the crash again, alone; then each by itself.
  CHECK(child.starts() == 4);
}

TEST_CASE("a crash that only company brings about says so") {
  FakeChild child("a.crashes) if [ $(wc -l < $dir/starts) = 1 ]; then kill -ABRT $$; fi; printf 'pass\\n' ;;");
  const auto results = run_checks({{"a.one", "", ""}, {"a.crashes", "", ""}}, child.options);
  CHECK(results[1].outcome == Outcome::Crash);
  CHECK(contains(results[1].reason, "alone in a process it does not crash"));
}

TEST_CASE("a child that ends by itself is a crash too") {
  FakeChild child("a.leaves) exit 0 ;;");
  const auto results = run_checks({{"a.leaves", "", ""}}, child.options);
  CHECK(results[0].outcome == Outcome::Crash);
  CHECK(contains(results[0].reason, "ended with status 0"));
}

TEST_CASE("what hangs is stopped, with all that it started") {
  FakeChild child("a.hangs) sleep 1000 & wait ;;", 1);
  const auto results = run_checks({{"a.hangs", "", ""}, {"a.two", "", ""}}, child.options);
  CHECK(results[0].outcome == Outcome::Timeout);
  CHECK(contains(results[0].reason, "no answer within 1 s"));
  CHECK(child.starts() == 2);
}

TEST_CASE("a check whose need did not pass is skipped, and so is what needs that one") {
  FakeChild child("a.fails) printf 'fail\\tno\\n' ;;");
  const auto results = run_checks({{"a.fails", "", ""},
                                   {"b.one", "x", "a.fails"},
                                   {"b.two", "x", "b.one"},
                                   {"b.three", "x", "b.absent"},
                                   {"b.four", "x", "b.one b.three"}},
                                  child.options);
  CHECK(results[1].outcome == Outcome::Skip);
  CHECK(results[1].reason == "needs a.fails, which ended as fail");
  CHECK(results[2].outcome == Outcome::Skip);
  CHECK(results[2].reason == "needs a.fails, which ended as fail");
  CHECK(results[3].outcome == Outcome::Pass);
  CHECK(results[4].outcome == Outcome::Skip);
}

TEST_CASE("an interruption ends the run") {
  FakeChild child("a.hangs) sleep 1000 & wait ;;");
  child.options.cancelled = [] { return true; };
  CHECK_THROWS_AS(run_checks({{"a.hangs", "", ""}}, child.options), Error);
}

TEST_CASE("a program that cannot be started is a crash and not the end of the kit") {
  const auto results = run_checks({{"a.one", "", ""}}, {.command = {"/no/such/program"}});
  CHECK(results[0].outcome == Outcome::Crash);
  CHECK(contains(results[0].reason, "status 127"));
}

TEST_CASE("a plan holds the checks of the file, then those of each thing it provides") {
  const auto all = ids(plan_checks(some_provides(), 3, ""));
  CHECK(all.front() == "file.manifest@");
  auto has = [&](const std::string& id) { return std::find(all.begin(), all.end(), id) != all.end(); };
  CHECK(has("quantizer.error_bound@quantizer:mine"));
  CHECK(has("options.docs@patch:other"));
  CHECK_FALSE(has("quantizer.error_bound@patch:other"));
  CHECK(ids(plan_checks(some_provides(), 3, "quantizer.b*")) == std::vector<std::string>{"quantizer.bits@quantizer:mine"});
  CHECK(ids(plan_checks(some_provides(), 3, "options.docs@patch:*")) == std::vector<std::string>{"options.docs@patch:other"});
  CHECK(plan_checks(some_provides(), 3, "no such *").empty());
  CHECK(plan_checks(some_provides(), 1, "").size() <= all.size());
}

TEST_CASE("ids are unique, are group.name, and say what they protect from") {
  std::vector<std::string> seen;
  for (const Check& check : all_checks()) {
    CHECK(std::find(seen.begin(), seen.end(), check.id) == seen.end());
    seen.push_back(check.id);
    CHECK(std::count(seen.back().begin(), seen.back().end(), '.') == 1);
    CHECK(std::string(check.protects).size() > 20);
    CHECK(std::string(check.protects).back() == '.');
    CHECK(check.level >= 1);
    CHECK(check.level <= 3);
    // What is needed exists and comes first.
    std::istringstream needs(check.needs);
    for (std::string need; needs >> need;) CHECK(std::find(seen.begin(), seen.end() - 1, need) != seen.end() - 1);
  }
}

TEST_CASE("results read as text, JSON and JUnit") {
  Summary summary{.file = "libmine.so", .id = "org.example.mine", .version = "1.0", .level = 1, .seed = 7};
  summary.results = {{.id = "file.manifest"},
                     {.id = "quantizer.bits", .subject = "quantizer:mine", .outcome = Outcome::Fail, .reason = "5 < 6 & \"odd\"\nmore"},
                     {.id = "quantizer.rows", .subject = "quantizer:mine", .outcome = Outcome::Skip, .reason = "no embeddings"},
                     {.id = "quantizer.linear", .subject = "quantizer:mine", .outcome = Outcome::Crash, .reason = "SIGSEGV"},
                     {.id = "quantizer.memory", .subject = "quantizer:mine", .outcome = Outcome::Timeout, .reason = "no answer"}};
  CHECK_FALSE(summary.all_well());
  const std::string text = to_text(summary);
  CHECK(contains(text, "libmine.so (org.example.mine 1.0)\n"));
  CHECK(contains(text, "why: bits_per_weight is what users choose by."));
  CHECK(contains(text, "1 pass, 1 fail, 1 skip, 1 crash, 1 timeout (level 1, seed 7)\n"));

  const Value value = to_value(summary);
  CHECK(value.at("ok").as_bool() == false);
  CHECK(value.at("counts").at("crash").as_int() == 1);
  CHECK(value.at("seed").as_int() == 7);
  REQUIRE(value.at("checks").as_list().size() == 5);
  const Value& row = value.at("checks").as_list()[1];
  CHECK(row.at("id").as_string() == "quantizer.bits");
  CHECK(row.at("subject").as_string() == "quantizer:mine");
  CHECK(row.at("result").as_string() == "fail");
  CHECK(row.at("protects").as_string() == "bits_per_weight is what users choose by.");

  const std::string junit = to_junit(summary);
  CHECK(contains(junit, "tests=\"5\" failures=\"1\" errors=\"2\" skipped=\"1\""));
  CHECK(contains(junit, "<failure type=\"fail\" message=\"5 &lt; 6 &amp; &quot;odd&quot;\">"));
  CHECK(contains(junit, "<error type=\"crash\" message=\"SIGSEGV\">SIGSEGV</error>"));
  CHECK(contains(junit, "<skipped message=\"no embeddings\"/>"));
  CHECK(junit.ends_with("</testsuite></testsuites>\n"));

  // What a plugin says may hold anything.
  summary.results[1].reason = "a\x1b[31m\x01 \xff\xc0\x80\xed\xa0\x80 \xc3\xa9 \xf0\x9f\xaa\xb5 \xf0\x9f";
  for (const std::string& shown : {to_text(summary), to_junit(summary)})
    CHECK(contains(shown, "a?[31m? ?????? \xc3\xa9 \xf0\x9f\xaa\xb5 ??"));

  summary.results.erase(summary.results.begin() + 3, summary.results.end());
  summary.results.erase(summary.results.begin() + 1);
  CHECK(summary.all_well());
}

TEST_CASE("the list names every check") {
  CHECK(list_value().as_list().size() == all_checks().size());
  CHECK(contains(list_text(), "quantizer.error_bound"));
}
