// Any bytes as a plugin's file: a manifest, or a reason; never run, never read beyond its end.
#include <cstdlib>

#include "plugins/manifest_reader.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tenon::host;
  const ManifestReading reading = read_manifest({reinterpret_cast<const std::byte*>(data), size});
  if (!reading.manifest) {
    if (reading.problems.empty()) std::abort();
    return 0;
  }
  std::vector<std::string> problems = manifest_mismatches(*reading.manifest);
  if (read_provides(*reading.manifest, problems).empty() && problems.empty()) std::abort();
  return 0;
}
