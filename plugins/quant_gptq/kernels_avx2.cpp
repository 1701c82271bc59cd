#include "kernels_impl.h"

namespace tenon::gptq::detail {
const Kernels& avx2_kernels() {
  static constexpr Kernels table{"avx2", dequantize, multiply, range, quantize_tile};
  return table;
}
}  // namespace tenon::gptq::detail
