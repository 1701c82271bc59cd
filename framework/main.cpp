// `host`: starts without LibTorch, answers what it can, and opens libtenon.so for the rest.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/json.h"
#include "cli/args.h"
#include "cli/doctor_light.h"
#include "cli/light_main.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "tenon/error.h"

namespace {

using namespace tenon;
using namespace tenon::host;

// What LibTorch's libraries read when they are loaded; the user's own settings stay.
void prepare_libraries() {
  auto preset = [](const char* name, const char* value) { ::setenv(name, value, /*overwrite=*/0); };
  // oneDNN and LibTorch's layer over it each keep the last 1024 compiled products, one for every shape that came, about 0.65 MB each: batches of
  // ever other lengths would fill them with a gigabyte. What one training step needs fits into this many.
  preset("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128");
  preset("LRU_CACHE_CAPACITY", "128");
  // Threads that wait for work spin for milliseconds by default. On a machine that does other things too they spin in the way of the very thread
  // they wait for; this is some 200 microseconds, longer than what lies between two products of a token, then they sleep.
  if (!std::getenv("OMP_WAIT_POLICY")) preset("GOMP_SPINCOUNT", "20000");
}

// The verb's own code, in ../lib/libtenon.so.
int run_heavy(const Args& args) {
  const std::filesystem::path program = std::filesystem::canonical("/proc/self/exe");
  const std::filesystem::path library = program.parent_path().parent_path() / "lib" / "libtenon.so";
  prepare_libraries();
  // Lazily: LibTorch has many symbols that a verb never calls.
  void* handle = ::dlopen(library.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (!handle && args.verb->name == "doctor") {
    // The page that helps to find out why.
    Value page = doctor_light(args.search);
    page.set("libtorch", concat("not usable, cannot load ", library.string(), ": ", ::dlerror()));
    const std::string text = args.json ? to_json(page, 2) + "\n" : doctor_text(page);
    std::fwrite(text.data(), 1, text.size(), stdout);
    return static_cast<int>(ErrorCode::Internal);
  }
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
