#include "base/interrupt.h"

#include <csignal>

#include "tenon/error.h"

#include <doctest/doctest.h>

using namespace tenon;
using namespace tenon::host;

TEST_CASE("the first Ctrl-C is a request, which long work sees") {
  install_interrupt_handler();
  CHECK_FALSE(interrupted());
  std::raise(SIGINT);
  CHECK(interrupted());
  try {
    throw_if_interrupted();
    FAIL("should have thrown");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::Interrupted);
  }
  set_interrupted(false);
  throw_if_interrupted();
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}
