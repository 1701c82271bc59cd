#include "moments_impl.h"

namespace tenon::gptq::detail {
const Kernels& avx2_kernels() {
  static constexpr Kernels table{"avx2", dequantize, multiply, nullptr, range, quantize_tile, moments_f32, nullptr};
  return table;
}
}  // namespace tenon::gptq::detail
