// `host`: starts without LibTorch, answers what it can, and opens libtenon.so for the rest.
#include <dlfcn.h>

#include <filesystem>

#include "cli/args.h"
#include "cli/light_main.h"
#include "cli/report.h"

namespace {

using namespace tenon;
using namespace tenon::host;

// The verb's own code, in ../lib/libtenon.so.
int run_heavy(const Args& args) {
  const std::filesystem::path program = std::filesystem::canonical("/proc/self/exe");
  const std::filesystem::path library = program.parent_path().parent_path() / "lib" / "libtenon.so";
  // Lazily: LibTorch has many symbols that a verb never calls.
  void* handle = ::dlopen(library.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (!handle) fail(ErrorCode::Internal, "cannot load ", library.string(), ": ", ::dlerror());
  auto* entry = reinterpret_cast<int (*)(const Args*)>(::dlsym(handle, "tenon_cli_main"));
  if (!entry) fail(ErrorCode::Internal, library.string(), " is not the libtenon.so of this host: ", ::dlerror());
  return entry(&args);
}

}  // namespace

int main(int argc, char** argv) {
  return run_guarded([&] {
    const Args args = parse_args(argc, argv);
    if (const auto status = run_light(args)) return *status;
    return run_heavy(args);
  });
}
