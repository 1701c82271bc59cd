// Any processor: plain loops, for the compiler to vectorise as it can.
#include "kernels_convert.h"

namespace tenon::int8 {
namespace {

struct Isa {
  static constexpr const char* kName = "portable";
  static constexpr std::int64_t kBytes = 64;
  static constexpr bool kShifted = false;
  using Codes = const std::int8_t*;
  struct Sum {
    std::int32_t value;
  };

  static Codes weight(const std::int8_t* codes) { return codes; }
  static Codes activation(const std::int8_t* codes) { return codes; }
  static void add(Sum& sum, Codes weight, Codes activation) {
    std::int32_t value = 0;
    for (std::int64_t i = 0; i < kBytes; ++i) value += std::int32_t{weight[i]} * std::int32_t{activation[i]};
    sum.value += value;
  }
  static std::int32_t total(const Sum& sum) { return sum.value; }
  static void round_to_half(float* values, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) values[i] = from_f16(to_f16(values[i]));
  }
};

}  // namespace
}  // namespace tenon::int8

#include "kernels_body.h"

namespace tenon::int8::detail {
const Kernels& portable_kernels() { return kTable; }
}  // namespace tenon::int8::detail
