// Which kernels this processor can run, and which of them does.
#include "kernels.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace tenon::int8 {
namespace detail {
const Kernels& portable_kernels();
const Kernels& avx2_kernels();
const Kernels& avxvnni_kernels();
const Kernels& avx512vnni_kernels();
}  // namespace detail

namespace {

const std::vector<const Kernels*>& detected() {
  static const auto* const found = [] {
    auto* list = new std::vector<const Kernels*>{&detail::portable_kernels()};
#if defined(__x86_64__)
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (has_avx2) list->push_back(&detail::avx2_kernels());
    if (has_avx2 && __builtin_cpu_supports("avxvnni")) list->push_back(&detail::avxvnni_kernels());
    if (has_avx512 && __builtin_cpu_supports("avx512vnni")) list->push_back(&detail::avx512vnni_kernels());
#endif
    return list;
  }();
  return *found;
}

// Every level that TENON_CPU may name, in any plugin; a plugin without kernels of its own for one uses those below.
constexpr std::string_view kLevels[] = {"portable", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16"};

std::size_t level_of(std::string_view name) {
  std::size_t level = 0;
  while (level < std::size(kLevels) && kLevels[level] != name) ++level;
  return level;
}

const Kernels& choose() {
  const char* wanted = std::getenv("TENON_CPU");
  if (wanted == nullptr || *wanted == '\0') return *detected().back();
  const std::size_t limit = level_of(wanted);
  if (limit == std::size(kLevels)) {
    std::string names;
    for (const std::string_view level : kLevels) names += (names.empty() ? "" : ", ") + std::string(level);
    throw std::runtime_error("TENON_CPU is '" + std::string(wanted) + "', expected one of " + names);
  }
  const Kernels* best = detected().front();
  for (const Kernels* candidate : detected())
    if (level_of(candidate->name) <= limit) best = candidate;
  return *best;
}

}  // namespace

std::span<const Kernels* const> available_kernels() { return detected(); }

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace tenon::int8
