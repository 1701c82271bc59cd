// Which kernels this processor can run, and which of them does.
#include "kernels.h"

#include <cstdlib>
#include <string_view>
#include <vector>

namespace tenon::gptq {

std::span<const Kernels* const> available_kernels() {
  static const auto* const found = [] {
    auto* list = new std::vector<const Kernels*>{&detail::portable_kernels()};
#if defined(__x86_64__)
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (has_avx2) list->push_back(&detail::avx2_kernels());
    const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (has_avx512) list->push_back(&detail::avx512_kernels());
    if (has_avx512 && __builtin_cpu_supports("avx512bf16")) list->push_back(&detail::avx512bf16_kernels());
#endif
    return list;
  }();
  return *found;
}

const Kernels& kernels() {
  static const Kernels& chosen = []() -> const Kernels& {
    const char* wanted = std::getenv("TENON_CPU");  // other plugins know more names; the widest here serves those
    if (wanted != nullptr)
      for (const Kernels* candidate : available_kernels())
        if (std::string_view(candidate->name) == wanted) return *candidate;
    return *available_kernels().back();
  }();
  return chosen;
}

}  // namespace tenon::gptq
