// LibTorch seeds its generator anew in each process. A test program begins with the same seed each time, so that a failure comes again.
#include <ATen/Context.h>

namespace {
[[maybe_unused]] const bool seeded = (at::manual_seed(0), true);
}  // namespace
