#pragma once
// Sixteen floats at a time over rows of float32, bfloat16 and float16. Compiled once for each instruction set (TENON_CPU_CLONES), chosen when the
// library is loaded; the vector types are the compiler's, so that other processors build the same source.
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

// Sanitizers start before indirect functions are resolved.
#if defined(__x86_64__) && defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(TENON_NO_CPU_CLONES)
#define TENON_CPU_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TENON_CPU_CLONES
#endif
#define TENON_INLINE inline __attribute__((always_inline))
// GCC at -O2 keeps short loops over arrays of vectors rolled, and the arrays in memory.
#ifdef __clang__
#define TENON_UNROLL _Pragma("unroll")
#else
#define TENON_UNROLL _Pragma("GCC unroll 8")
#endif

namespace tenon::nn::rows {

constexpr int64_t kLanes = 16;
constexpr int64_t kSerialElements = 16384;  // less work than this is not worth a second thread
typedef float F16 __attribute__((vector_size(64)));
typedef uint32_t U16 __attribute__((vector_size(64)));
typedef int32_t I16 __attribute__((vector_size(64)));
typedef uint16_t H16 __attribute__((vector_size(32)));

// A cast between vectors keeps the bits. Vectors go in and out by reference: passing them by value would depend on the instruction set.
TENON_INLINE void load16(const float* from, F16& v) { std::memcpy(&v, from, sizeof v); }
TENON_INLINE void store16(float* to, const F16& v) { std::memcpy(to, &v, sizeof v); }

TENON_INLINE void load16(const c10::BFloat16* from, F16& v) {
  H16 half;
  std::memcpy(&half, from, sizeof half);
  v = (F16)(__builtin_convertvector(half, U16) << 16);
}
// To nearest, ties to even; every NaN becomes the same one, as in LibTorch.
TENON_INLINE void store16(c10::BFloat16* to, const F16& v) {
  const U16 bits = (U16)v, rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, is_nan = (U16)(v != v);
  const H16 half = __builtin_convertvector((rounded & ~is_nan) | (0x7fc0u & is_nan), H16);
  std::memcpy(to, &half, sizeof half);
}

TENON_INLINE void load16(const c10::Half* from, F16& v) {
  for (int64_t i = 0; i < kLanes; ++i) v[i] = static_cast<float>(from[i]);
}
TENON_INLINE void store16(c10::Half* to, const F16& v) {
  for (int64_t i = 0; i < kLanes; ++i) to[i] = static_cast<c10::Half>(v[i]);
}

// The first n of sixteen; the rest reads as zero and is not written.
template <class T>
TENON_INLINE void load(const T* from, int64_t n, F16& v) {
  if (n >= kLanes) return load16(from, v);
  T part[kLanes] = {};
  std::memcpy(static_cast<void*>(part), from, static_cast<size_t>(n) * sizeof(T));
  load16(part, v);
}
template <class T>
TENON_INLINE void store(T* to, int64_t n, const F16& v) {
  if (n >= kLanes) return store16(to, v);
  T part[kLanes];
  store16(part, v);
  std::memcpy(static_cast<void*>(to), part, static_cast<size_t>(n) * sizeof(T));
}

TENON_INLINE float sum(const F16& v) {
  typedef float F4 __attribute__((vector_size(16)));
  F4 part[4];
  std::memcpy(part, &v, sizeof v);
  const F4 four = (part[0] + part[1]) + (part[2] + part[3]);
  return (four[0] + four[1]) + (four[2] + four[3]);
}

// v as T would hold it.
template <class T>
TENON_INLINE void round_to(F16& v) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    U16 bits;
    std::memcpy(&bits, &v, sizeof bits);
    const U16 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
    const I16 not_equal = v != v;
    U16 is_nan;
    std::memcpy(&is_nan, &not_equal, sizeof is_nan);
    bits = (rounded & ~is_nan) | (bits & is_nan);
    std::memcpy(&v, &bits, sizeof v);
  } else if constexpr (!std::is_same_v<T, float>) {
    T stored[kLanes];
    store16(stored, v);
    load16(stored, v);
  }
}

// e^v for v <= 0, to 2 units in the last place; 0 below -87. Cephes' reduction and polynomial.
TENON_INLINE void exp_of_negative(F16& v) {
  const I16 tiny = v < -87.0f;
  I16 masked;
  std::memcpy(&masked, &v, sizeof masked);
  masked &= ~tiny;
  F16 x;
  std::memcpy(&x, &masked, sizeof x);
  const F16 shifted = x * 1.44269504f + 12582912.0f;  // the integer part lands in the low bits
  const F16 n = shifted - 12582912.0f;
  const F16 r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  F16 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  I16 bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  const I16 power = (bits + (127 - 0x4b400000)) << 23;
  F16 two_to_n;
  std::memcpy(&two_to_n, &power, sizeof power);
  p *= two_to_n;
  I16 kept;
  std::memcpy(&kept, &p, sizeof kept);
  kept &= ~tiny;
  std::memcpy(&v, &kept, sizeof v);
}

}  // namespace tenon::nn::rows
