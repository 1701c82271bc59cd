// A plugin of an earlier day (README.md) in the host of today.
#include <doctest/doctest.h>

#include "abi/probe.h"
#include "base/json.h"
#include "plugins/registry.h"
#include "support/paths.h"
#include "support/temp_dir.h"

using namespace tenon;

TEST_CASE("a released stable plugin loads, and every step of the probe gives what it gave on the day of its release") {
  const auto folder = testing::source_dir() / "tests" / "abi";
  int releases = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".so") continue;
    ++releases;
    CAPTURE(entry.path().string());
    CHECK(entry.file_size() <= 100 * 1024);
    // A checkout may be writable for others, which a plugin must not be.
    const testing::TempDir private_dir;
    const auto copy = private_dir.path() / "libreleased.so";
    std::filesystem::copy_file(entry.path(), copy);
    using std::filesystem::perms;
    std::filesystem::permissions(private_dir.path(), perms::owner_all);
    std::filesystem::permissions(copy, perms::owner_read | perms::owner_write);
    host::Registry registry(host::discover_plugins({.plugin_dirs = {}, .plugin_files = {copy}, .bundled_only = false}));
    const Value golden = host::read_json_file(std::filesystem::path(entry.path()).replace_extension(".json"));
    REQUIRE(!golden.as_table().empty());
    for (const auto& [quantizer, expected] : golden.as_table()) {
      const Value results = testing::probe(registry.quantizer(quantizer), expected.at("with"));
      for (const auto& [step, value] : expected.at("gave").as_table()) {
        CAPTURE(step);
        CAPTURE(host::to_json(value));
        const Value* now = results.find(step);
        REQUIRE(now);
        CHECK(host::to_json(*now) == host::to_json(value));
      }
    }
  }
  CHECK(releases >= 1);
}
