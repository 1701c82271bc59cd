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

std::string good_plugin() { return read_file(testing::bad_plugin("good")); }

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
  CHECK(problem_after([](Manifest& m) { m.size = 12; }) ==
        concat("its manifest says 12 bytes, schema 1 has ", sizeof(Manifest), ": rebuild it against this host's SDK"));
  auto endless = [](auto field) { return problem_after([&](Manifest& m) { std::fill(std::begin(field(m)), std::end(field(m)), 'i'); }); };
  auto without_end = [](const std::string& name, size_t size) {
    return concat("its manifest's ", name, " has no end within its ", size,
                  " bytes: the file is damaged or was not made with TENON_PLUGIN, build it again");
  };
  CHECK(endless([](Manifest & m) -> auto& { return m.id; }) == without_end("id", 64));
  CHECK(endless([](Manifest & m) -> auto& { return m.version; }) == without_end("version", 32));
  CHECK(endless([](Manifest & m) -> auto& { return m.license; }) == without_end("license", 32));
  CHECK(endless([](Manifest & m) -> auto& { return m.compiler; }) == without_end("compiler", 64));
  CHECK(endless([](Manifest & m) -> auto& { return m.provides[31]; }) == without_end("provides[31]", 96));
  CHECK(problem_after([](Manifest& m) { m.id[0] = '\n'; }).rfind("its id '?rg.example.good' is no id: letters, digits", 0) == 0);
  CHECK(problem_after([](Manifest& m) { m.id[0] = '\0'; }).rfind("its id '' is no id", 0) == 0);
  CHECK(problem_after([](Manifest& m) { m.version[0] = '\0'; }) ==
        "its version '' is no version: run.json records it, give one as in .version = \"0.1.0\"");
  CHECK(problem_after([](Manifest& m) { m.license[0] = '\x01'; }).find("write its SPDX name, as in .license = \"MIT\"") !=
        std::string::npos);
  CHECK(problem_after([](Manifest& m) { m.compiler[0] = '\0'; }).find("does not say which compiler made it") != std::string::npos);
}

TEST_CASE("kernels of another CUDA major release are refused, with both releases") {
  CHECK(cuda_mismatch(0, 13000).empty());
  CHECK(cuda_mismatch(12080, 0).empty());
  CHECK(cuda_mismatch(13010, 13000).empty());
  CHECK(cuda_mismatch(12080, 13000) ==
        "its kernels were built with CUDA 12.8, this host's with CUDA 13.0: one process holds one major release, rebuild it with CUDA 13");
}

TEST_CASE("a library may hold many plugins that are linked into it") {
  std::string bytes = good_plugin();
  const std::span<const std::byte> file{reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()};
  const auto all = read_builtin_manifests(file);
  REQUIRE(all.size() == 1);
  CHECK(field_text(all[0].manifest->id, 64) == "org.example.good");
  const std::string text = "no library";
  CHECK(read_builtin_manifests({reinterpret_cast<const std::byte*>(text.data()), text.size()}).empty());
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
      m.cuda_version = 12080;  // its runtime is inside
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
  Manifest twice = *read(good_plugin()).manifest;
  std::copy(std::begin(twice.provides[0]), std::end(twice.provides[0]), std::begin(twice.provides[1]));
  std::vector<std::string> problems;
  read_provides(twice, problems);
  REQUIRE(problems.size() == 1);
  CHECK(problems[0] == "it provides 'patch:good_patch' twice: keep one row");
}
