// Any bytes as a plugin's file: used or rejected with a reason, never run, never read beyond its end.
#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "plugins/discovery.h"

namespace {

// In a folder and a mode that discovery trusts, so that it comes to reading the file.
struct PluginPath {
  PluginPath() {
    char name[] = "/dev/shm/tenon-fuzz-XXXXXX";
    if (::mkdtemp(name) == nullptr) std::abort();
    path = std::filesystem::path(name) / "libfuzz.so";
  }
  ~PluginPath() { std::filesystem::remove_all(path.parent_path()); }
  std::filesystem::path path;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const PluginPath plugin;
  const int file = ::open(plugin.path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (file < 0 || ::write(file, data, size) != static_cast<ssize_t>(size)) std::abort();
  ::close(file);
  for (const auto& found : tenon::host::discover_plugins({.plugin_dirs = {}, .plugin_files = {plugin.path}, .bundled_only = true}).files)
    if (found.path == plugin.path && found.state == tenon::host::PluginState::Rejected && found.reasons.empty()) std::abort();
  return 0;
}
