#include "cli/doctor_light.h"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <fstream>

#include "base/text.h"
#include "base/workers.h"
#include "plugins/manifest_reader.h"
#include "tenon/error.h"
#include "tenon/version.h"

namespace tenon::host {

namespace {

std::string line_of(const char* file, const std::string& start) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);)
    if (line.rfind(start, 0) == 0) {
      const size_t at = line.find_first_not_of(" \t:=\"", start.size());
      if (at == std::string::npos) return "";
      line = line.substr(at);
      while (!line.empty() && (line.back() == '"' || line.back() == ' ')) line.pop_back();
      return line;
    }
  return "";
}

// The extensions that kernels choose by.
std::string cpu_features() {
  std::vector<std::string> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) found.push_back("avx2");
  if (__builtin_cpu_supports("fma")) found.push_back("fma");
  if (__builtin_cpu_supports("avx512f")) found.push_back("avx512f");
  if (__builtin_cpu_supports("avx512bw")) found.push_back("avx512bw");
  if (__builtin_cpu_supports("avx512vl")) found.push_back("avx512vl");
  if (__builtin_cpu_supports("avx512vbmi")) found.push_back("avx512vbmi");
  if (__builtin_cpu_supports("avx512vnni")) found.push_back("avx512vnni");
  if (__builtin_cpu_supports("avx512bf16")) found.push_back("avx512bf16");
#endif
  return found.empty() ? "none that kernels use" : join(found, " ");
}

}  // namespace

Value doctor_light(const SearchPath& search) {
  Value page = Value::table();
  page.set("tenon", fmt::format("{}, SDK {}.{}", TENON_VERSION, TENON_SDK_MAJOR, TENON_SDK_MINOR));
  page.set("compiler", fmt::format("{} {}, C++{}", __VERSION__, sizeof(void*) == 8 ? "64-bit" : "32-bit", __cplusplus / 100 % 100));
  utsname system{};
  ::uname(&system);
  page.set("system",
           fmt::format("{}, {} {} {}", line_of("/etc/os-release", "PRETTY_NAME"), system.sysname, system.release, system.machine));
  page.set("cpu", line_of("/proc/cpuinfo", "model name"));
  page.set("cpu_features", cpu_features());
  page.set("threads", worker_count());
  page.set("memory", human_bytes(static_cast<int64_t>(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE)));
  page.set("host", std::filesystem::canonical("/proc/self/exe").string());
  Value environment = Value::list();
  for (char** variable = environ; *variable; ++variable)
    for (const char* known :
         {"TENON_", "XDG_CONFIG_HOME=", "XDG_DATA_HOME=", "LD_LIBRARY_PATH=", "LD_PRELOAD=", "OMP_", "CUDA_VISIBLE_DEVICES="})
      if (std::string_view(*variable).starts_with(known)) environment.as_list().emplace_back(*variable);
  if (environment.as_list().empty()) environment.as_list().emplace_back("nothing set that matters here");
  page.set("environment", std::move(environment));
  Discovery found;
  try {
    found = discover_plugins(search);
    page.set("plugin_mode", fmt::format("{} ({}), {} pinned", mode_name(found.policy.mode), found.policy.set_by, found.policy.pins.size()));
  } catch (const Error& error) {
    page.set("plugin_mode", error.what());
  }
  Value folders = Value::list();
  for (const auto& folder : plugin_folders(search)) {
    const bool there = std::filesystem::is_directory(folder.path);
    const auto count =
        std::count_if(found.files.begin(), found.files.end(), [&](const PluginFile& f) { return f.origin == folder.origin; });
    folders.as_list().emplace_back(
        fmt::format("{} ({}{})", folder.path.string(), folder.origin, there ? fmt::format(", {} files", count) : ", not there"));
  }
  for (const auto& folder : ignored_plugin_folders())
    folders.as_list().emplace_back(fmt::format("{} (TENON_PLUGIN_PATH, ignored: not a whole path)", folder));
  page.set("plugin_folders", std::move(folders));
  Value plugins = Value::list();
  for (const auto& file : found.files)
    plugins.as_list().emplace_back(
        file.state == PluginState::Available
            ? fmt::format("{} {} ({})", file.id(), field_text(file.manifest->version, sizeof file.manifest->version), file.origin)
            : fmt::format("{} not used: {}", file.path.string(), join(file.reasons, "; ")));
  page.set("plugins", std::move(plugins));
  return page;
}

std::string doctor_text(const Value& page) {
  std::string text;
  for (const auto& [key, value] : page.as_table()) {
    if (!value.is_list()) {
      text += fmt::format("{:16}{}\n", key, value.is_string() ? value.as_string() : std::to_string(value.as_int()));
      continue;
    }
    bool first = true;
    for (const auto& item : value.as_list()) text += fmt::format("{:16}{}\n", std::exchange(first, false) ? key : "", item.as_string());
  }
  return text;
}

}  // namespace tenon::host
