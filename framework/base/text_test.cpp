#include "base/text.h"

#include <doctest/doctest.h>

using namespace tenon::host;

TEST_CASE("a slip of the keyboard finds the name that was meant") {
  CHECK(did_you_mean("blok_size", {"double_quant", "block_size"}) == ", did you mean 'block_size'?");
  CHECK(did_you_mean("paht", {"path", "init"}) == ", did you mean 'path'?");  // neighbours swapped count as one slip
  CHECK(did_you_mean("modle", {"model", "patch"}) == ", did you mean 'model'?");
  CHECK(did_you_mean("PATH", {"path"}) == ", did you mean 'path'?");
  CHECK(did_you_mean("warmup", {"seed", "optim"}).empty());
  CHECK(nearest("abcdef", {"abcdxx", "abcdex", "zzz"}) == std::vector<std::string>{"abcdex", "abcdxx"});
  CHECK(nearest("abcdef", {"abcdxx", "abcdex"}, 1).size() == 1);
}

TEST_CASE("amounts of memory are read in both systems of units") {
  CHECK(parse_bytes("20GiB") == int64_t{20} << 30);
  CHECK(parse_bytes("500 MB") == 500'000'000);
  CHECK(parse_bytes("1.5 kib") == 1536);
  CHECK(parse_bytes("1024") == 1024);
  for (const char* wrong : {"", "GiB", "20 furlongs", "1.2.3", "-1", "1e3", "9999999999999GiB", "."})
    CHECK_FALSE(parse_bytes(wrong).has_value());
}

TEST_CASE("figures read well") {
  CHECK(human_bytes(512) == "512 B");
  CHECK(human_bytes((int64_t{1} << 30) * 32 / 10) == "3.2 GiB");
  CHECK(human_bytes(1048575) == "1.0 MiB");
  CHECK(human_count(12345) == "12,345");
  CHECK(human_count(-1234) == "-1,234");
  CHECK(human_count(1'100'000'000) == "1.10 B");
  CHECK(human_seconds(4.24) == "4.2 s");
  CHECK(human_seconds(3723) == "1:02:03");
  CHECK(human_seconds(61) == "1:01");
}

TEST_CASE("join and split are inverse") {
  CHECK(split("a;b;;c", ';') == std::vector<std::string>{"a", "b", "", "c"});
  CHECK(join(split("a;b;;c", ';'), ";") == "a;b;;c");
  CHECK(split("", ';').size() == 1);
}
