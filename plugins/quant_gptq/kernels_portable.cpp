#include "moments_impl.h"

namespace tenon::gptq::detail {
const Kernels& portable_kernels() {
  static constexpr Kernels table{"portable", dequantize, multiply, nullptr, range, quantize_tile, moments_f32, nullptr};
  return table;
}
}  // namespace tenon::gptq::detail
