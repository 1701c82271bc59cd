// Every field of the manifest, changed in the file itself: the host refuses it with a reason of its own and says what to do.
#include <sys/stat.h>

#include <algorithm>
#include <functional>
#include <set>

#include "base/file.h"
#include "plugins/discovery.h"
#include "support/paths.h"
#include "support/temp_dir.h"

#include <doctest/doctest.h>

namespace fs = std::filesystem;
using namespace tenon;
using namespace tenon::host;

namespace {

struct FieldChange {
  const char* field;
  size_t size;  // of the whole field
  std::function<void(Manifest&)> change;
  std::string reason, remedy;  // parts of the one reason
};

#define TENON_TEST_FIELD(name) #name, sizeof(Manifest::name)
#define TENON_TEST_CXX_FIELD(name) "cxx." #name, sizeof(CxxAbi::name)

const std::vector<FieldChange>& changes() {
  static const std::string again = "rebuild it";
  static const auto* const all = new std::vector<FieldChange>{
      {TENON_TEST_FIELD(magic), [](Manifest& m) { m.magic[0] ^= 1; }, "the magic bytes are missing", "build it again with TENON_PLUGIN"},
      {TENON_TEST_FIELD(size), [](Manifest& m) { m.size += 8; }, "its manifest says", again},
      {TENON_TEST_FIELD(schema), [](Manifest& m) { m.schema += 1; }, "its manifest has schema 2, this host reads schema 1", again},
      {TENON_TEST_FIELD(tier), [](Manifest& m) { m.tier = 7; }, "its tier 7 is unknown", again},
      {TENON_TEST_FIELD(sdk_major), [](Manifest& m) { m.sdk_major += 1; }, "built against SDK 1.", again},
      {TENON_TEST_FIELD(sdk_minor), [](Manifest& m) { m.sdk_minor += 1; }, "built against SDK 0.", again},
      {TENON_TEST_FIELD(cuda_version), [](Manifest& m) { m.cuda_version = 99000; }, "its kernels were built with CUDA 99.0", again},
      {TENON_TEST_FIELD(torch_abi), [](Manifest& m) { m.torch_abi += uint64_t{1} << 48; }, "built for LibTorch 2.", again},
      {TENON_TEST_FIELD(sdk_hash), [](Manifest& m) { m.sdk_hash ^= 1; }, "built against other headers of SDK", again},
      {TENON_TEST_CXX_FIELD(gxx_abi), [](Manifest& m) { m.cxx.gxx_abi += 1; }, "built with C++ ABI", again},
      {TENON_TEST_CXX_FIELD(cxx11_strings), [](Manifest& m) { m.cxx.cxx11_strings ^= 1; }, "built with _GLIBCXX_USE_CXX11_ABI=0", again},
      {TENON_TEST_CXX_FIELD(compiler), [](Manifest& m) { m.cxx.compiler = 3 - m.cxx.compiler; }, "built with clang++",
       "needs the same compiler family"},
      {TENON_TEST_CXX_FIELD(sanitizers), [](Manifest& m) { m.cxx.sanitizers ^= 2; }, "ThreadSanitizer", again},
      {TENON_TEST_CXX_FIELD(language), [](Manifest& m) { m.cxx.language = 201703; }, "compiled as C++17", again},
      {TENON_TEST_FIELD(id), [](Manifest& m) { m.id[0] = ' '; }, "is no id", "as in .id ="},
      {TENON_TEST_FIELD(version), [](Manifest& m) { m.version[0] = ' '; }, "is no version", "as in .version ="},
      {TENON_TEST_FIELD(license), [](Manifest& m) { m.license[0] = '\t'; }, "its license", "write its SPDX name"},
      {TENON_TEST_FIELD(compiler), [](Manifest& m) { m.compiler[0] = '\0'; }, "does not say which compiler made it",
       "build it with TENON_PLUGIN"},
      {TENON_TEST_FIELD(provides), [](Manifest& m) { m.provides[0][0] = 'x'; }, "which is not kind:name", "as in quantizer:mine"},
  };
  return *all;
}

}  // namespace

TEST_CASE("the list of fields is the manifest's") {
  size_t sum = 0;
  std::set<std::string> names;
  for (const auto& row : changes()) sum += row.size, names.insert(row.field);
  CHECK(names.size() == changes().size());
  // No padding: a field that is not in the list makes a difference.
  CHECK(sum == sizeof(Manifest));
}

TEST_CASE("changing any field of a manifest gives its own message with what to do") {
  const testing::TempDir folder;
  ::chmod(folder.path().c_str(), 0755);
  const std::string good = read_file(testing::bad_plugin("good"));
  const size_t place = good.find(std::string(kManifestMagic, sizeof kManifestMagic));
  REQUIRE(place != std::string::npos);
  auto judged = [&](const FieldChange* row) {
    std::string bytes = good;
    if (row) row->change(*reinterpret_cast<Manifest*>(bytes.data() + place));
    const fs::path file = folder.write("mine.so", bytes);
    ::chmod(file.c_str(), 0644);
    return judge_plugin(file, {});
  };
  REQUIRE(judged(nullptr).state == PluginState::Available);
  const bool host_has_kernels = !cuda_mismatch(99000, TENON_TEST_CUDA_VERSION).empty();
  std::set<std::string> reasons;
  for (const auto& row : changes()) {
    CAPTURE(row.field);
    if (row.field == std::string("cuda_version") && !host_has_kernels) {
      MESSAGE("SKIP: cuda_version: this host was built without CUDA");
      continue;
    }
    const PluginFile file = judged(&row);
    CHECK(file.state == PluginState::Rejected);
    REQUIRE(file.reasons.size() == 1);
    const std::string& reason = file.reasons.front();
    CAPTURE(reason);
    CHECK(reason.find(row.reason) != std::string::npos);
    CHECK(reason.find(row.remedy) != std::string::npos);
    CHECK(reasons.insert(reason).second);
  }
}
