#include "kernels_impl.h"

namespace tenon::gptq::detail {
const Kernels& portable_kernels() {
  static constexpr Kernels table{"portable", dequantize, multiply, range, quantize_tile};
  return table;
}
}  // namespace tenon::gptq::detail
