// Which kernels this processor can run, and which of them does.
#include "kernels.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "kernels_internal.h"

namespace tenon::nf4 {
namespace {

const std::vector<const Kernels*>& detected() {
  static const auto* const found = [] {
    auto* list = new std::vector<const Kernels*>{&detail::portable_kernels()};
#if defined(__x86_64__)
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (has_avx2) list->push_back(&detail::avx2_kernels());
    if (has_avx512) list->push_back(&detail::avx512_kernels());
    if (has_avx512 && __builtin_cpu_supports("avx512bf16")) list->push_back(&detail::avx512bf16_kernels());
#endif
    return list;
  }();
  return *found;
}

const Kernels& choose() {
  const char* wanted = std::getenv("TENON_CPU");
  if (wanted == nullptr || *wanted == '\0') return *detected().back();
  std::string names;
  for (const Kernels* candidate : detected()) {
    if (std::string_view(candidate->name) == wanted) return *candidate;
    names += (names.empty() ? "" : ", ") + std::string(candidate->name);
  }
  throw std::runtime_error("TENON_CPU is '" + std::string(wanted) + "', expected one that this machine can run: " + names);
}

}  // namespace

std::span<const float, kCodes> code_values(Codebook codebook) { return detail::values_of(codebook); }
std::span<const float, kNestedCodes> nested_code_values() { return detail::kDynamicMap; }

std::span<const Kernels* const> available_kernels() { return detected(); }

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace tenon::nf4
