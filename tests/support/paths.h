#pragma once
// Where a test finds the repository, the build and the real data (which may be absent). The build's own folders, unless the
// environment names others: that is how the same programs run from the bundle of `./dev gpu-bundle`, on another machine.
#include <cstdlib>
#include <filesystem>
#include <string>

namespace tenon::testing {

inline std::filesystem::path folder(const char* variable, const char* built) {
  const char* named = std::getenv(variable);
  return named != nullptr && *named != '\0' ? named : built;
}

inline std::filesystem::path source_dir() { return folder("TENON_SOURCE_DIR", TENON_SOURCE_DIR); }
inline std::filesystem::path build_dir() { return folder("TENON_BUILD_DIR", TENON_BUILD_DIR); }
inline std::filesystem::path shared_dir() { return folder("TENON_SHARED_DIR", TENON_SHARED_DIR); }
inline std::filesystem::path bad_plugin(const std::string& name) { return build_dir() / "tests" / "bad_plugins" / ("lib" + name + ".so"); }
inline bool has_shared_data() { return std::filesystem::exists(shared_dir() / "data"); }

}  // namespace tenon::testing
