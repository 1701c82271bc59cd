#include "data/records.h"

#include <doctest/doctest.h>

#include "support/errors.h"
#include "support/temp_dir.h"

using namespace tenon;
using namespace tenon::host;
using tenon::testing::error_of;
using tenon::testing::TempDir;

namespace {}  // namespace

TEST_CASE("records of a lines file know their lines") {
  TempDir dir;
  const RecordFile file(dir.write("a.jsonl", "\xEF\xBB\xBF{\"n\": 1}\r\n\n  {\"n\": 2}\n{\"n\": 3}"));
  REQUIRE(file.size() == 3);
  CHECK(file.parse(1).at("n").as_int() == 2);
  CHECK(file.origin(0) == "a.jsonl:1");
  CHECK(file.origin(1) == "a.jsonl:3");
  CHECK(file.origin(2) == "a.jsonl:4");
}

TEST_CASE("records of an array are cut at its own commas") {
  TempDir dir;
  const RecordFile file(
      dir.write("a.json", "[\n {\"text\": \"a, ]}[{ \\\" b\", \"list\": [1, [2, {\"x\": 3}]]},\n\n {\"text\": \"\"}\n , {\"n\": {}} ]\n"));
  REQUIRE(file.size() == 3);
  CHECK(file.parse(0).at("text").as_string() == "a, ]}[{ \" b");
  CHECK(file.parse(0).at("list").as_list().size() == 2);
  CHECK(file.origin(0) == "a.json:2");
  CHECK(file.origin(1) == "a.json:4");
  CHECK(file.origin(2) == "a.json:5");
  CHECK(RecordFile(dir.write("lines.json", "{\"a\": 1}\n{\"a\": 2}\n")).size() == 2);
}

TEST_CASE("errors name file, line and column") {
  TempDir dir;
  const RecordFile lines(dir.write("a.jsonl", "{\"n\": 1}\n{\"n\": }\n[1]\n{\"n\": \"\xff\"}\n"));
  const std::string at = (dir.path() / "a.jsonl").string();
  CHECK(error_of([&] { lines.parse(1); }).starts_with(at + ":2:7: "));
  CHECK(error_of([&] { lines.parse(2); }) == at + ":3: expected a record {...}, found a list");
  CHECK(error_of([&] { lines.parse(3); }).starts_with(at + ":4:"));  // invalid UTF-8
  const RecordFile array(dir.write("a.json", "[{\"a\": 1},\n{\"b\":\n 1 2}]"));
  CHECK(error_of([&] { array.parse(1); }).starts_with((dir.path() / "a.json").string() + ":3:"));
}

TEST_CASE("files that hold no records are refused") {
  TempDir dir;
  auto open = [&](const char* name, const char* text) { return error_of([&] { RecordFile file(dir.write(name, text)); }); };
  CHECK(open("empty.jsonl", "").find("the file is empty") != std::string::npos);
  CHECK(open("blank.jsonl", "\n \n").find("holds no records") != std::string::npos);
  CHECK(open("none.json", "[]").find("holds no records") != std::string::npos);
  CHECK(open("cut.json", "[{\"a\": 1},").find("cut off") != std::string::npos);
  CHECK(open("more.json", "[{\"a\": 1}] x").find("expected the end of the file") != std::string::npos);
  CHECK(open("gap.json", "[{\"a\": 1},,{\"a\": 2}]").find("expected a record") != std::string::npos);
  CHECK(open("a.parquet", "x").find("not served yet") != std::string::npos);
  CHECK(open("a.txt", "x").find("JSON lines") != std::string::npos);
  CHECK(error_of([&] { RecordFile file(dir.path() / "absent.jsonl"); }).find("absent.jsonl: ") != std::string::npos);
}
