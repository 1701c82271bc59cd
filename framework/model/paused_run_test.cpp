#include "model/paused_run.h"

#include <doctest/doctest.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "plugins/breadcrumb.h"

using namespace tenon::host;

TEST_CASE("bodies go on where they paused, by turns, with what they hold") {
  std::string seen;
  std::vector<std::unique_ptr<PausedRun>> runs(3);
  for (size_t which = 0; which < runs.size(); ++which)
    runs[which] = std::make_unique<PausedRun>([&seen, &runs, which] {
      for (int i = 0; i < 3; ++i) {
        seen += static_cast<char>('a' + which) + std::to_string(i) + " ";
        runs[which]->pause();
      }
    });
  for (int turn = 0; turn < 4; ++turn)
    for (auto& run : runs) CHECK(run->resume() == (turn == 3));
  CHECK(seen == "a0 b0 c0 a1 b1 c1 a2 b2 c2 ");
}

TEST_CASE("what a body throws arrives at resume") {
  PausedRun* self = nullptr;
  PausedRun run([&] {
    self->pause();
    throw std::runtime_error("lost");
  });
  self = &run;
  CHECK_FALSE(run.resume());
  CHECK_THROWS_WITH(run.resume(), "lost");
}

TEST_CASE("a body that has not ended is unwound, also while another exception flies") {
  int unwound = 0;
  struct Holds {
    int& count;
    ~Holds() { ++count; }
  };
  const auto leave = [&] {
    PausedRun* self = nullptr;
    PausedRun run([&] {
      const Holds holds{unwound};
      self->pause();
      FAIL("nobody resumed");
    });
    self = &run;
    run.resume();
    throw std::runtime_error("elsewhere");
  };
  CHECK_THROWS_WITH(leave(), "elsewhere");
  CHECK(unwound == 1);
  PausedRun never([] { FAIL("nobody started it"); });
}

TEST_CASE("each side has its own trail of plugin calls") {
  PausedRun* self = nullptr;
  PausedRun run([&] {
    call_plugin("inner", "run", "", [&] {
      CHECK(current_plugin() == "inner");
      self->pause();
      CHECK(current_plugin() == "inner");
    });
  });
  self = &run;
  call_plugin("outer", "run", "", [&] {
    CHECK_FALSE(run.resume());
    CHECK(current_plugin() == "outer");
  });
  CHECK(current_plugin().empty());
  CHECK(run.resume());
  CHECK(current_plugin().empty());
}
