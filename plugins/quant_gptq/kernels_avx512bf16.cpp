#include "moments_impl.h"

namespace tenon::gptq::detail {
const Kernels& avx512bf16_kernels() {
  static constexpr Kernels table{"avx512bf16", dequantize, multiply, range, quantize_tile, moments_f32, moments_bf16};
  return table;
}
}  // namespace tenon::gptq::detail
