#include "tenon/device.h"

#include <ATen/Parallel.h>
#include <dlfcn.h>

#include "base/workers.h"
#include "tenon/error.h"

namespace tenon {

void* current_cuda_stream(at::Device device) {
  // A C function of LibTorch's CUDA library, looked up by name: this library links the CPU ones only.
  using Getter = int (*)(int32_t, void**);
  static const Getter getter = reinterpret_cast<Getter>(dlsym(RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream"));
  void* stream = nullptr;
  if (!getter || getter(device.index() < 0 ? 0 : device.index(), &stream) != 0)
    fail(ErrorCode::Device, "no stream for ", device.str(), ": LibTorch's CUDA library is not loaded");
  return stream;
}

void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  if (n <= 0) return;
  if (host::inside_worker()) return body(0, n);
  at::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) { body(begin, end); });
}

}  // namespace tenon
