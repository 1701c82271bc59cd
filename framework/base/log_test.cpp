#include "base/log.h"

#include <vector>

#include <doctest/doctest.h>

using namespace tenon::host;

TEST_CASE("a sink takes the lines over, down to the level that was set") {
  std::vector<std::pair<LogLevel, std::string>> lines;
  set_log_sink([&](LogLevel level, std::string_view text) { lines.emplace_back(level, text); });
  log_info("one");
  log_debug("hidden");
  set_log_level(LogLevel::Debug);
  log_debug("shown");
  Progress progress("load", 2048, true);
  progress.add(1024);
  progress.note("note");
  progress.add(1024);
  progress.finish();
  set_log_level(LogLevel::Info);
  set_log_sink(nullptr);
  REQUIRE(lines.size() == 3);
  CHECK((lines[0].first == LogLevel::Info && lines[0].second == "one"));
  CHECK(lines[1].second == "shown");
  CHECK(lines[2].second.rfind("load: 2.0 KiB in ", 0) == 0);
}
