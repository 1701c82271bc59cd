#include "base/workers.h"

#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

using namespace tenon::host;

TEST_CASE("every task runs once, inside a worker") {
  std::vector<std::atomic<int>> runs(1000);
  std::atomic<int> outside{0};
  run_tasks(runs.size(), [&](size_t i) {
    ++runs[i];
    if (!inside_worker()) ++outside;
  });
  for (const auto& count : runs) REQUIRE(count == 1);
  CHECK(outside == 0);
  CHECK_FALSE(inside_worker());
  run_tasks(0, [](size_t) { FAIL("there is no task"); });
}

TEST_CASE("the first exception stops the rest and comes out once all have ended") {
  std::atomic<int> started{0}, running{0};
  CHECK_THROWS_WITH_AS(run_tasks(100000,
                                 [&](size_t i) {
                                   ++started, ++running;
                                   if (i == 10) {
                                     --running;
                                     throw std::runtime_error("ten");
                                   }
                                   --running;
                                 }),
                       "ten", std::runtime_error);
  CHECK(running == 0);
  CHECK(started < 100000);
  CHECK_FALSE(inside_worker());
}

TEST_CASE("tasks inside a task stay on their thread") {
  std::atomic<int> strays{0};
  run_tasks(8, [&](size_t) {
    const auto here = std::this_thread::get_id();
    run_tasks(4, [&](size_t) {
      if (std::this_thread::get_id() != here) ++strays;
    });
    if (!inside_worker()) ++strays;
  });
  CHECK(strays == 0);
}
