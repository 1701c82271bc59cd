// Each bad plugin is caught by its own check of `host check-plugin` and by nothing else, and none takes the host down.
#include <set>
#include <string>
#include <vector>

#include "support/run_host.h"
#include "tenon/json.h"

#include <doctest/doctest.h>

using namespace tenon;
using testing::bad_plugin;
using testing::run_host;

namespace {

struct Case {
  const char *plugin, *check, *result;
};

// Runs the kit; the checks that did not go well, as "id result".
std::set<std::string> finds(const std::string& plugin, int& status, std::string& text) {
  const auto run = run_host({"check-plugin", bad_plugin(plugin), "--json", "--level", "1", "--timeout", "30"});
  status = run.status;
  text = run.out + run.err;
  std::set<std::string> found;
  const Value value = parse_json(run.out, plugin);
  for (const Value& row : value.at("checks").as_list()) {
    const std::string result = row.at("result").as_string();
    if (result != "pass" && result != "skip") found.insert(row.at("id").as_string() + " " + result);
  }
  return found;
}

void expect_caught(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    CAPTURE(c.plugin);
    int status = 0;
    std::string text;
    const auto found = finds(c.plugin, status, text);
    CAPTURE(text);
    CHECK(status == 4);
    CHECK(found == std::set<std::string>{std::string(c.check) + " " + c.result});
  }
}

}  // namespace

TEST_CASE("a plugin without a fault passes") {
  for (const char* plugin : {"good", "none"}) {
    CAPTURE(plugin);
    int status = 0;
    std::string text;
    const auto found = finds(plugin, status, text);
    CAPTURE(text);
    CHECK(status == 0);
    CHECK(found.empty());
  }
}

TEST_CASE("faults of the file are found without running it") {
  expect_caught({{"wrong_magic", "file.manifest", "fail"},
                 {"no_such_kind", "file.provides", "fail"},
                 {"wrong_tier", "file.tier", "fail"},
                 {"wrong_release", "file.release", "fail"},
                 {"wrong_headers", "file.sdk", "fail"},
                 {"wrong_compiler", "file.compiler", "fail"},
                 {"bundled_name", "file.names", "fail"},
                 {"exports_extra", "file.symbols", "fail"},
                 {"build_path", "file.rpath", "fail"},
                 {"executable_stack", "file.stack", "fail"}});
}

TEST_CASE("faults of loading and registering") {
  expect_caught({{"throws_in_constructor", "load.open", "crash"},
                 {"no_entry", "load.open", "fail"},
                 {"throws_in_register", "load.register", "fail"},
                 {"throws_an_int", "load.register", "fail"},
                 {"promises_more", "load.names", "fail"},
                 {"registers_more", "load.names", "fail"},
                 {"same_name_twice", "load.names", "fail"},
                 {"registers_differently", "load.twice", "fail"},
                 {"grad_mode_in_register", "load.global_state", "fail"},
                 {"changes_environment", "load.global_state", "fail"}});
}

TEST_CASE("a process that ends while a plugin is loaded says which plugin") {
  const auto run = run_host({"plugins", "describe", "org.example.throws_in_constructor", "--plugin", bad_plugin("throws_in_constructor")});
  CAPTURE(run.err);
  CHECK(run.err.find("abort in plugin org.example.throws_in_constructor, call load") != std::string::npos);
}

TEST_CASE("faults of options") {
  expect_caught({{"throws_in_make", "options.defaults", "fail"},
                 {"undocumented_option", "options.docs", "fail"},
                 {"takes_host_key", "options.docs", "fail"},
                 {"refuses_its_range", "options.boundaries", "fail"}});
}

TEST_CASE("faults of a quantizer's calls") {
  expect_caught({{"throws_in_every_call", "quantizer.calls", "fail"},
                 {"segfaults", "quantizer.calls", "crash"},
                 {"hangs", "quantizer.calls", "timeout"},
                 {"ends_the_process", "quantizer.calls", "crash"},
                 {"mutates_its_input", "quantizer.input_unchanged", "fail"},
                 {"changes_grad_mode", "quantizer.global_state", "fail"}});
#ifndef __SANITIZE_ADDRESS__  // which looks for leaks itself, and keeps what was freed
  expect_caught({{"leaks", "quantizer.memory", "fail"}});
#endif
}

TEST_CASE("lies of a quantizer") {
  expect_caught({{"gives_no_reason", "quantizer.supports", "fail"},
                 {"lies_about_shapes", "quantizer.resident", "fail"},
                 {"lies_about_bits", "quantizer.bits", "fail"},
                 {"lies_about_error", "quantizer.error_bound", "fail"},
                 {"lies_about_gradients", "quantizer.gradient", "fail"},
                 {"zeros_become_nan", "quantizer.special_values", "fail"},
                 {"ignores_first_row", "quantizer.shapes", "fail"},
                 {"breaks_panels", "quantizer.panels", "fail"},
                 {"uses_up_its_observer", "quantizer.calibration", "fail"},
                 {"mixes_up_products", "quantizer.linear_many", "fail"}});
}

TEST_CASE("factories that return nothing, throw or crash are found one by one") {
  int status = 0;
  std::string text;
  const auto found = finds("makes_nothing", status, text);
  CAPTURE(text);
  CHECK(status == 4);
  CHECK(found == std::set<std::string>{"options.defaults fail", "options.defaults crash"});
}
