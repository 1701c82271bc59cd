#include "base/file.h"

#include <fstream>

#include "support/temp_dir.h"
#include "tenon/error.h"

#include <doctest/doctest.h>

using namespace tenon;
using namespace tenon::host;

TEST_CASE("a file appears under its name only when committed") {
  const testing::TempDir dir;
  const auto target = dir.path() / "deep" / "a.txt";
  {
    AtomicFile out(target);
    out.write("half", 4);
    CHECK_FALSE(std::filesystem::exists(target));
  }
  CHECK(std::filesystem::is_empty(target.parent_path()));  // nothing is left of a write that was given up
  write_file(target, "whole");
  CHECK(read_file(target) == "whole");
  write_file(target, "again");
  CHECK(read_file(target) == "again");
  CHECK(std::distance(std::filesystem::directory_iterator(target.parent_path()), {}) == 1);
}

TEST_CASE("what cannot be read is named with the reason") {
  const testing::TempDir dir;
  CHECK_THROWS_WITH_AS(read_file(dir.path() / "none"), doctest::Contains("No such file"), Error);
  CHECK_THROWS_WITH_AS(read_file(dir.path()), doctest::Contains("it is a folder"), Error);
  CHECK_THROWS_WITH_AS(read_file("/dev/zero"), doctest::Contains("not a regular file"), Error);
  const auto big = dir.write("big", "0123456789");
  CHECK_THROWS_WITH_AS(read_file(big, 4), doctest::Contains("at most 4 are read"), Error);
}

TEST_CASE("a map shows the bytes before and after its pages are let go") {
  const testing::TempDir dir;
  const std::string text(3 << 16, 'x');
  const MappedFile file(dir.write("m", text));
  REQUIRE(file.bytes().size() == text.size());
  file.will_need(0, text.size());
  file.release(1, text.size() - 1);
  file.release(text.size(), 100);
  CHECK(std::string_view(reinterpret_cast<const char*>(file.bytes().data()), text.size()) == text);
  CHECK(MappedFile(dir.write("empty", "")).bytes().empty());
}
