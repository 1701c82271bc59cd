// `host doctor`: one page to paste into a report.
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <torch/headeronly/version.h>

#include <cstdio>
#include <filesystem>

#include "base/json.h"
#include "base/text.h"
#include "cli/doctor_light.h"
#include "cli/heavy_verbs.h"
#include "model/devices.h"

namespace tenon::host {

namespace {

// What a native plugin must be compiled with, where tenon's CMake package is not used.
std::string compile_line() {
  return fmt::format(
      "{} -std=c++{} -D_GLIBCXX_USE_CXX11_ABI={} -fPIC -shared -fvisibility=hidden -I<prefix>/include -isystem <libtorch {}>/include ...",
#ifdef __clang__
      "clang++",
#else
      "g++",
#endif
      __cplusplus / 100 % 100, _GLIBCXX_USE_CXX11_ABI, TORCH_VERSION);
}

// Where the loader found it.
std::string libtorch_folder() {
  Dl_info info{};
  if (::dladdr(reinterpret_cast<const void*>(&at::get_num_threads), &info) == 0 || !info.dli_fname) return "unknown";
  return std::filesystem::path(info.dli_fname).parent_path().string();
}

}  // namespace

int verb_doctor(const Args& args) {
  Value page = doctor_light(args.search);
  page.set("libtorch",
           fmt::format("{}, {} intra-op threads, cpu capability {}", TORCH_VERSION, at::get_num_threads(), at::get_cpu_capability()));
  page.set("libtorch_folder", libtorch_folder());
  std::string problem;
  Value devices = Value::list();
  for (const auto& device : cuda_devices(&problem))
    devices.as_list().emplace_back(fmt::format("{}, {} free", device.name, human_bytes(device.bytes)));
  if (devices.as_list().empty()) devices.as_list().emplace_back(problem.empty() ? "none" : "none: " + problem);
  page.set("cuda", std::move(devices));
  page.set("host_memory", human_bytes(host_memory_available()) + " available");
  page.set("native_plugins", "find_package(tenon) and tenon_add_plugin(), or: " + compile_line());
  const std::string text = args.json ? to_json(page, 2) + "\n" : doctor_text(page);
  std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

}  // namespace tenon::host
