#include "plugins/manifest_reader.h"

#include <torch/headeronly/version.h>

#include <functional>

#include "base/file.h"
#include "support/paths.h"
#include "tenon/error.h"

#include <doctest/doctest.h>

using namespace tenon;
using namespace tenon::host;

namespace {

std::string good_plugin() { return read_file(testing::build_dir() / "tests" / "bad_plugins" / "libgood.so"); }

ManifestReading read(const std::string& bytes) { return read_manifest({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()}); }

// The manifest inside the bytes of a library.
Manifest& manifest_in(std::string& bytes) {
  const size_t at = bytes.find(std::string(kManifestMagic, sizeof kManifestMagic));
  REQUIRE(at != std::string::npos);
  return *reinterpret_cast<Manifest*>(bytes.data() + at);
}

std::string problem_after(const std::function<void(Manifest&)>& change) {
  std::string bytes = good_plugin();
  change(manifest_in(bytes));
  const ManifestReading reading = read(bytes);
  return reading.problems.empty() ? "" : reading.problems.front();
}

std::vector<std::string> mismatches_after(const std::function<void(Manifest&)>& change) {
  Manifest manifest = *read(good_plugin()).manifest;
  change(manifest);
  return manifest_mismatches(manifest);
}

void check_single(const std::function<void(Manifest&)>& change, const std::string& expected) {
  const auto reasons = mismatches_after(change);
  CAPTURE(expected);
  REQUIRE(reasons.size() == 1);
  CHECK(reasons.front().find(expected) != std::string::npos);
}

}  // namespace

TEST_CASE("a manifest is read from the library's file") {
  const ManifestReading reading = read(good_plugin());
  REQUIRE(reading.problems.empty());
  CHECK(field_text(reading.manifest->id, 64) == "org.example.good");
  CHECK(field_text(reading.manifest->version, 32) == "1.2.3");
  CHECK(manifest_mismatches(*reading.manifest).empty());
  std::vector<std::string> problems;
  const auto provides = read_provides(*reading.manifest, problems);
  REQUIRE(provides.size() == 1);
  CHECK(problems.empty());
  CHECK(provides[0].kind == "patch");
  CHECK(provides[0].name == "good_patch");
  CHECK(provides[0].attribute("stage") == "config");
  CHECK(provides[0].attribute("none").empty());
}

TEST_CASE("a manifest of a wrong form says what is wrong with it") {
  CHECK(problem_after([](Manifest& m) { m.magic[3] = 'x'; }).find("magic bytes are missing") != std::string::npos);
  CHECK(problem_after([](Manifest& m) { m.schema = 7; }) ==
        "its manifest has schema 7, this host reads schema 1: rebuild it against this host's SDK");
  CHECK(problem_after([](Manifest& m) { m.size = 12; }) == concat("its manifest says 12 bytes, schema 1 has ", sizeof(Manifest)));
  CHECK(problem_after([](Manifest& m) { std::fill(std::begin(m.id), std::end(m.id), 'i'); }) == "its manifest holds a text without an end");
  CHECK(problem_after([](Manifest& m) { std::fill(std::begin(m.version), std::end(m.version), 'i'); }) ==
        "its manifest holds a text without an end");
  CHECK(problem_after([](Manifest& m) { std::fill(std::begin(m.license), std::end(m.license), 'i'); }) ==
        "its manifest holds a text without an end");
  CHECK(problem_after([](Manifest& m) { std::fill(std::begin(m.compiler), std::end(m.compiler), 'i'); }) ==
        "its manifest holds a text without an end");
  CHECK(problem_after([](Manifest& m) { std::fill(std::begin(m.provides[31]), std::end(m.provides[31]), 'i'); }) ==
        "its manifest holds a text without an end");
  CHECK(problem_after([](Manifest& m) { m.id[0] = '\n'; }).rfind("its id '?rg.example.good' is no id", 0) == 0);
}

TEST_CASE("each field that would break has a message of its own, with a remedy") {
  check_single([](Manifest& m) { m.tier = 9; }, "its tier 9 is unknown to this host");
  check_single([](Manifest& m) { m.torch_abi -= uint64_t{1} << 48; },
               concat("built for LibTorch ", TORCH_VERSION_MAJOR, ".", TORCH_VERSION_MINOR - 1, "."));
  check_single([](Manifest& m) { m.torch_abi += 1; }, "of another variant, this host runs");
  check_single([](Manifest& m) { m.sdk_major += 1; }, "built against SDK 1.");
  check_single([](Manifest& m) { m.sdk_minor += 1; }, "rebuild it against this host's headers");
  check_single([](Manifest& m) { m.sdk_hash ^= 1; }, "built against other headers of SDK");
  check_single([](Manifest& m) { m.cxx.compiler = 2; }, "built with clang++");
  check_single([](Manifest& m) { m.cxx.gxx_abi += 1; }, "-fabi-version");
  check_single([](Manifest& m) { m.cxx.cxx11_strings ^= 1; }, "rebuild it with -D_GLIBCXX_USE_CXX11_ABI=1");
  check_single([](Manifest& m) { m.cxx.language = 201703; }, "compiled as C++17, this host as C++20: rebuild it with -std=c++20");
  check_single([](Manifest& m) { m.cxx.sanitizers ^= 2; }, "ThreadSanitizer");
}

TEST_CASE("the stable tier asks for LibTorch's stable ABI alone") {
  auto stable = [](auto&& change) {
    return mismatches_after([&](Manifest& m) {
      m.tier = static_cast<uint32_t>(Tier::Stable);
      m.torch_abi = uint64_t{2} << 56 | uint64_t{11} << 48;
      m.sdk_hash = 0, m.sdk_minor += 1, m.cxx.compiler = 2, m.cxx.gxx_abi = 1, m.cxx.cxx11_strings ^= 1, m.cxx.language = 201703;
      change(m);
    });
  };
  CHECK(stable([](Manifest&) {}).empty());
  CHECK(stable([](Manifest& m) { m.torch_abi = TORCH_ABI_VERSION; }).empty());
  auto only = [&](auto&& change) {
    const auto reasons = stable(change);
    CHECK(reasons.size() == 1);
    return reasons.empty() ? std::string() : reasons.front();
  };
  CHECK(only([](Manifest& m) {
          m.torch_abi = TORCH_ABI_VERSION + (uint64_t{1} << 48);
        }).find(concat("made for LibTorch ", TORCH_VERSION_MAJOR, ".", TORCH_VERSION_MINOR + 1, " and newer, this host runs")) == 0);
  CHECK(only([](Manifest& m) { m.torch_abi = uint64_t{2} << 56 | uint64_t{9} << 48; }).find("TENON_STABLE_TORCH=") != std::string::npos);
  CHECK(only([](Manifest& m) { m.cxx.sanitizers |= 2; }).find("ThreadSanitizer") != std::string::npos);
}

TEST_CASE("all mismatches come together") {
  const auto reasons = mismatches_after([](Manifest& m) {
    m.torch_abi = 0;
    m.sdk_hash ^= 1;
    m.cxx.compiler = 77;
    m.cxx.gxx_abi = 1;
    m.cxx.cxx11_strings ^= 1;
    m.cxx.language = 1;
    m.cxx.sanitizers ^= 8;
  });
  CHECK(reasons.size() == 7);
}

TEST_CASE("rows of provides that do not read so are named") {
  auto problem_of = [](const std::string& row) {
    Manifest manifest = *read(good_plugin()).manifest;
    std::fill(std::begin(manifest.provides[0]), std::end(manifest.provides[0]), '\0');
    std::copy(row.begin(), row.end(), manifest.provides[0]);
    std::vector<std::string> problems;
    read_provides(manifest, problems);
    return problems.empty() ? std::string() : problems.front();
  };
  CHECK(problem_of("patch:fine").empty());
  CHECK(problem_of("").find("provides nothing") != std::string::npos);
  CHECK(problem_of("patch").find("which is not kind:name") != std::string::npos);
  CHECK(problem_of("patch:").find("which is not kind:name") != std::string::npos);
  CHECK(problem_of("parrot:fine").find("with a kind of quantizer, architecture") != std::string::npos);
  CHECK(problem_of("patch:a b").find("which is not kind:name") != std::string::npos);
  CHECK(problem_of("patch:a;b").find("'b' is not key=value") != std::string::npos);
}
