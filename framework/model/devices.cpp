#include "model/devices.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/text.h"

namespace tenon::host {

namespace {

// "MemAvailable:   1234 kB" -> bytes, -1 when absent.
int64_t proc_value(const char* file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);)
    if (line.rfind(key + ":", 0) == 0) return std::stoll(line.substr(key.size() + 1)) * 1024;
  return -1;
}

int64_t number_in(const char* file) {
  std::ifstream in(file);
  int64_t n = -1;
  return in >> n ? n : -1;
}

}  // namespace

int64_t host_memory_available() {
  int64_t available = proc_value("/proc/meminfo", "MemAvailable");
  const int64_t limit = number_in("/sys/fs/cgroup/memory.max"), used = number_in("/sys/fs/cgroup/memory.current");
  if (limit > 0 && used >= 0) available = std::min(available, std::max<int64_t>(0, limit - used));
  return std::max<int64_t>(available, 0);
}

int64_t host_memory_now() { return std::max<int64_t>(0, proc_value("/proc/self/status", "VmRSS")); }
int64_t host_memory_peak() { return std::max<int64_t>(0, proc_value("/proc/self/status", "VmHWM")); }

void reset_host_memory_peak() {
  std::ofstream out("/proc/self/clear_refs");
  out << "5";
}

std::vector<DeviceBudget> cuda_devices(std::string* problem) {
  auto none = [&](std::string why) {
    if (problem) *problem = std::move(why);
    return std::vector<DeviceBudget>{};
  };
  if (!std::filesystem::exists("/dev/nvidiactl") && !std::filesystem::exists("/dev/nvidia0"))
    return none("no NVIDIA driver on this machine");
  // Global, so that code which looks LibTorch's C functions up by name finds those of the CUDA library too.
  if (!dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL)) return none(concat("LibTorch's CUDA library does not load: ", dlerror()));
  void* runtime = dlopen("libcudart.so.13", RTLD_NOW | RTLD_NOLOAD);
  if (!runtime) runtime = dlopen("libcudart.so.13", RTLD_NOW);
  if (!runtime) runtime = dlopen("libcudart.so.12", RTLD_NOW);
  if (!runtime) return none("the CUDA runtime library was not found");
  auto count_devices = reinterpret_cast<int (*)(int*)>(dlsym(runtime, "cudaGetDeviceCount"));
  auto set_device = reinterpret_cast<int (*)(int)>(dlsym(runtime, "cudaSetDevice"));
  auto memory_info = reinterpret_cast<int (*)(size_t*, size_t*)>(dlsym(runtime, "cudaMemGetInfo"));
  int count = 0;
  if (!count_devices || !set_device || !memory_info || count_devices(&count) != 0 || count == 0)
    return none("the CUDA driver reports no device");
  std::vector<DeviceBudget> devices;
  for (int i = count - 1; i >= 0; --i) {  // ends on device 0, the current one for everybody else
    size_t free_bytes = 0, total_bytes = 0;
    if (set_device(i) == 0 && memory_info(&free_bytes, &total_bytes) == 0)
      devices.insert(devices.begin(), {concat("cuda:", i), static_cast<int64_t>(free_bytes)});
  }
  return devices;
}

std::vector<DeviceBudget> parse_devices(const std::string& text) {
  std::vector<DeviceBudget> devices;
  for (const std::string& part : split(text, ',')) {
    const size_t equals = part.find('=');
    const std::string name = part.substr(0, equals);
    const bool known =
        name == "cpu" || (name.rfind("cuda:", 0) == 0 && name.size() > 5 && std::all_of(name.begin() + 5, name.end(), ::isdigit));
    const auto bytes = equals == std::string::npos ? std::nullopt : parse_bytes(part.substr(equals + 1));
    if (!known || !bytes) fail(ErrorCode::Usage, "'", part, "' is not a device: expected something like cuda:0=24GiB or cpu=64GiB");
    for (const auto& other : devices)
      if (other.name == name) fail(ErrorCode::Usage, "device '", name, "' is given twice");
    devices.push_back({name, *bytes});
  }
  return devices;
}

}  // namespace tenon::host
