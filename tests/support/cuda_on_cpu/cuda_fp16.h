#pragma once
#include "cuda_runtime.h"

struct __half {
  std::uint16_t bits;
};
inline float __half2float(__half h) { return cuda_on_cpu::half_value(h.bits); }
inline __half __float2half_rn(float f) { return {std::bit_cast<std::uint16_t>(static_cast<_Float16>(f))}; }

struct __half2 {
  __half x, y;
};
inline __half2 __hsub2(__half2 a, __half2 b) {
  return {__float2half_rn(__half2float(a.x) - __half2float(b.x)), __float2half_rn(__half2float(a.y) - __half2float(b.y))};
}
