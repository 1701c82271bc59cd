#include "moments_impl.h"

namespace tenon::gptq::detail {
const Kernels& avx512_kernels() {
  static constexpr Kernels table{"avx512", dequantize, multiply, range, quantize_tile, moments_f32, nullptr};
  return table;
}
}  // namespace tenon::gptq::detail
