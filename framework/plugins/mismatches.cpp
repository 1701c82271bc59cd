// Whether a plugin's binary fits this host's: only what would break is compared, and all of it.
#include <torch/headeronly/version.h>

#include "plugins/discovery.h"
#include "plugins/manifest_reader.h"
#include "tenon/error.h"
#include "tenon/sdk_hash.h"

namespace tenon::host {

namespace {

std::string release(uint64_t torch_abi) { return concat(torch_abi >> 56, ".", torch_abi >> 48 & 0xff, ".", torch_abi >> 40 & 0xff); }

std::string compiler_name(uint32_t compiler) { return compiler == 1 ? "g++" : compiler == 2 ? "clang++" : "an unknown compiler"; }

std::string sanitizer_names(uint32_t bits) {
  if (bits == 0) return "without sanitizers";
  return concat("with ", bits & 1 ? "AddressSanitizer" : "", (bits & 3) == 3 ? " and " : "", bits & 2 ? "ThreadSanitizer" : "",
                bits & ~3u ? "an unknown sanitizer" : "");
}

std::string cuda_release(uint32_t version) { return concat(version / 1000, ".", version / 10 % 100); }

std::string language_name(int64_t language) {
  const int64_t year = language / 100 % 100;
  return language / 10000 == 20 ? concat("C++", year < 10 ? "0" : "", year) : concat("a language level of ", language);
}

// Whatever the compiler and the SDK's headers were: the release of LibTorch's stable ABI decides, and what cannot be loaded at all. Nor does the
// CUDA release: such a plugin brings its own runtime inside and launches on streams, which are the driver's.
std::vector<std::string> stable_mismatches(const Manifest& manifest) {
  constexpr CxxAbi host = this_cxx_abi();
  constexpr uint64_t kOldest = uint64_t{2} << 56 | uint64_t{10} << 48;  // lists, strings and devices came with it
  auto surface = [](uint64_t torch_abi) { return torch_abi >> 48; };
  auto name = [](uint64_t torch_abi) { return concat(torch_abi >> 56, ".", torch_abi >> 48 & 0xff); };
  std::vector<std::string> reasons;
  if (surface(manifest.torch_abi) > surface(TORCH_ABI_VERSION))
    reasons.push_back(concat("made for LibTorch ", name(manifest.torch_abi), " and newer, this host runs ", release(TORCH_ABI_VERSION),
                             ": use a host with a newer LibTorch, or rebuild it with TENON_STABLE_TORCH=", name(TORCH_ABI_VERSION)));
  if (surface(manifest.torch_abi) < surface(kOldest))
    reasons.push_back(concat("made for the stable ABI of LibTorch ", name(manifest.torch_abi), ", this host needs that of ", name(kOldest),
                             " or newer: rebuild it with TENON_STABLE_TORCH=", name(TORCH_ABI_VERSION)));
  if (manifest.cxx.sanitizers & ~host.sanitizers)
    reasons.push_back(concat("built ", sanitizer_names(manifest.cxx.sanitizers), ", this host ", sanitizer_names(host.sanitizers),
                             ": rebuild it without them"));
  return reasons;
}

}  // namespace

std::string cuda_mismatch(uint32_t theirs, uint32_t ours) {
  // Without kernels of its own a plugin runs with any; a host without any leaves the question to the loader.
  if (theirs == 0 || ours == 0 || theirs / 1000 == ours / 1000) return "";
  return concat("its kernels were built with CUDA ", cuda_release(theirs), ", this host's with CUDA ", cuda_release(ours),
                ": one process holds one major release, rebuild it with CUDA ", ours / 1000);
}

std::vector<std::string> manifest_mismatches(const Manifest& manifest) {
  constexpr CxxAbi host = this_cxx_abi();
  std::vector<std::string> reasons;
  auto refuse = [&](const auto&... parts) { reasons.push_back(concat(parts...)); };

  if (manifest.tier == static_cast<uint32_t>(Tier::Stable)) return stable_mismatches(manifest);
  if (manifest.tier != static_cast<uint32_t>(Tier::Native)) {
    refuse("its tier ", manifest.tier, " is unknown to this host: rebuild it against this host's SDK");
    return reasons;
  }
  if (manifest.torch_abi != TORCH_ABI_VERSION) {
    const std::string theirs = release(manifest.torch_abi), ours = release(TORCH_ABI_VERSION);
    refuse("built for LibTorch ", theirs, theirs == ours ? " of another variant" : "", ", this host runs ", ours,
           ": a native plugin needs the same release, rebuild it with LibTorch ", ours);
  }
  if (manifest.sdk_major != TENON_SDK_MAJOR || manifest.sdk_minor != TENON_SDK_MINOR)
    refuse("built against SDK ", manifest.sdk_major, ".", manifest.sdk_minor, ", this host has SDK ", TENON_SDK_MAJOR, ".", TENON_SDK_MINOR,
           ": rebuild it against this host's headers");
  else if (manifest.sdk_hash != TENON_SDK_HASH)
    refuse("built against other headers of SDK ", TENON_SDK_MAJOR, ".", TENON_SDK_MINOR,
           " than this host: rebuild it against this host's headers");
  if (std::string problem = cuda_mismatch(manifest.cuda_version, TENON_CUDA_VERSION); !problem.empty()) refuse(problem);
  if (manifest.cxx.compiler != host.compiler)
    refuse("built with ", compiler_name(manifest.cxx.compiler), " (", field_text(manifest.compiler, sizeof manifest.compiler),
           "), this host with ", compiler_name(host.compiler), ": a native plugin needs the same compiler family");
  if (manifest.cxx.gxx_abi != host.gxx_abi)
    refuse("built with C++ ABI ", manifest.cxx.gxx_abi, " (", field_text(manifest.compiler, sizeof manifest.compiler), "), this host with ",
           host.gxx_abi, ": rebuild it with this host's compiler or the same -fabi-version");
  if (manifest.cxx.cxx11_strings != host.cxx11_strings)
    refuse("built with _GLIBCXX_USE_CXX11_ABI=", manifest.cxx.cxx11_strings, ", this host with ", host.cxx11_strings,
           ": rebuild it with -D_GLIBCXX_USE_CXX11_ABI=", host.cxx11_strings);
  if (manifest.cxx.language != host.language)
    refuse("compiled as ", language_name(manifest.cxx.language), ", this host as ", language_name(host.language),
           ": rebuild it with -std=c++", host.language / 100 % 100);
  if (manifest.cxx.sanitizers != host.sanitizers)
    refuse("built ", sanitizer_names(manifest.cxx.sanitizers), ", this host ", sanitizer_names(host.sanitizers),
           ": rebuild it with the host's sanitizers");
  return reasons;
}

}  // namespace tenon::host
