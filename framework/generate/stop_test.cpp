#include "generate/stop.h"

#include "tenon/error.h"

#include <doctest/doctest.h>

using namespace tenon;
using namespace tenon::host;

TEST_CASE("text without stop strings passes through") {
  StopFinder finder({});
  CHECK(finder.push("one ") == "one ");
  CHECK(finder.push("two") == "two");
  CHECK(finder.finish() == "");
  CHECK_FALSE(finder.stopped());
}

TEST_CASE("a stop string is found across pieces and cut off with all that follows") {
  StopFinder finder({"END"});
  CHECK(finder.push("the E") == "the ");
  CHECK(finder.push("N") == "");
  CHECK(finder.push("Dless") == "");
  CHECK(finder.stopped());
  CHECK(finder.push("more") == "");
  CHECK(finder.finish() == "");
}

TEST_CASE("text that only began like a stop string is given back") {
  StopFinder finder({"END"});
  CHECK(finder.push("the EN") == "the ");
  CHECK(finder.push("Ergy") == "ENErgy");
  CHECK(finder.push("E") == "");
  CHECK(finder.finish() == "E");
  CHECK_FALSE(finder.stopped());
}

TEST_CASE("a stop string that overlaps itself is found") {
  StopFinder finder({"aab"});
  CHECK(finder.push("aa") == "");
  CHECK(finder.push("a") == "a");
  CHECK(finder.push("b") == "");
  CHECK(finder.stopped());
}

TEST_CASE("of several stop strings the earliest in the text counts") {
  StopFinder finder({"\n\n", "User:"});
  CHECK(finder.push("fine. User: hm\n\n") == "fine. ");
  CHECK(finder.stopped());
}

TEST_CASE("an empty stop string is refused") { CHECK_THROWS_AS(StopFinder({"a", ""}), Error); }
