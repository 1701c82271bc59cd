#pragma once
// A stand-in for CUDA, for tests on machines without a GPU: a .cu file compiled as plain C++ with this folder first among the include paths runs on
// the CPU, thread for thread. Only what our kernels use; a file that uses more does not compile.
//
// Blocks run one after another, the threads of a block as fibers. A warp runs until all of its lanes wait at a block-wide barrier or have ended,
// then another one does, in an order drawn anew each time: what only works while warps run in step fails here. Lanes of a warp meet in every
// shuffle and every tensor core product. A lane that never comes, and a barrier that not all threads reach, are errors, not hangs.
// Asynchronous copies arrive when they are waited for, no sooner. Build with AddressSanitizer, and every read or write out of bounds is found.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <random>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "fibers.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // blocks run one after another, on one thread

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- the machine ----

namespace cuda_on_cpu {

constexpr int kWarp = 32;

struct Barrier {
  int arrived = 0;
  unsigned passed = 0;
};

struct Warp {
  Barrier barrier;
  int alive = 0;
  alignas(16) unsigned char slots[kWarp][32];
};

struct Copy {
  void* to;
  const void* from;
  std::size_t size, zeros;
};

struct Thread {
  Fiber fiber;
  unsigned index = 0;
  Warp* warp = nullptr;
  const unsigned* waits_for = nullptr;  // a barrier's count of passes, which was
  unsigned seen = 0;
  bool ended = false;
  std::vector<std::vector<Copy>> committed;  // oldest first
  std::vector<Copy> open;
  bool can_run() const { return !ended && (waits_for == nullptr || *waits_for != seen); }
};

struct Machine {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Barrier block;
  int alive = 0;
  Thread* now = nullptr;
  std::mt19937 random{20240607};
  std::exception_ptr failure;
};
inline Machine machine;

inline void wait_at(Barrier& barrier, int of) {
  Thread& self = *machine.now;
  if (++barrier.arrived >= of) {
    barrier.arrived = 0;
    ++barrier.passed;
    return;
  }
  self.waits_for = &barrier.passed, self.seen = barrier.passed;
  self.fiber.pause();
}

inline void warp_barrier() { wait_at(machine.now->warp->barrier, kWarp); }

inline int lane() { return static_cast<int>(machine.now->index % kWarp); }

// What every lane of the warp gives, in the order of lanes.
template <class T>
struct Given {
  T of[kWarp];
};
template <class T>
Given<T> exchanged(const T& value) {
  static_assert(sizeof(T) <= sizeof(Warp::slots[0]) && std::is_trivially_copyable_v<T>);
  Warp& warp = *machine.now->warp;
  std::memcpy(warp.slots[lane()], &value, sizeof value);
  warp_barrier();
  Given<T> all;
  for (int i = 0; i < kWarp; ++i) std::memcpy(&all.of[i], warp.slots[i], sizeof(T));
  warp_barrier();
  return all;
}

inline void run_block(const std::function<void()>& body, unsigned threads) {
  Machine& m = machine;
  m.threads.resize(std::max<std::size_t>(m.threads.size(), threads));
  m.warps.assign((threads + kWarp - 1) / kWarp, {});
  m.block = {}, m.alive = static_cast<int>(threads);
  for (unsigned i = 0; i < threads; ++i) {
    Thread& t = m.threads[i];
    t.index = i, t.warp = &m.warps[i / kWarp], t.waits_for = nullptr, t.ended = false;
    t.open.clear(), t.committed.clear();
    ++t.warp->alive;
    t.fiber.start([&m, &t, &body] {
      try {
        body();
      } catch (...) {
        m.failure = std::current_exception();
      }
      t.ended = true;
      --t.warp->alive;
      if (--m.alive > 0 && m.block.arrived >= m.alive) m.block.arrived = 0, ++m.block.passed;  // who has ended counts as arrived
    });
  }
  std::vector<unsigned> order(m.warps.size());
  for (unsigned w = 0; w < order.size(); ++w) order[w] = w;
  while (m.alive > 0) {
    bool ran = false;
    std::shuffle(order.begin(), order.end(), m.random);
    for (const unsigned w : order)
      for (bool again = true; again;) {
        again = false;
        for (unsigned i = w * kWarp; i < std::min((w + 1) * kWarp, threads); ++i) {
          Thread& t = m.threads[i];
          if (!t.can_run()) continue;
          t.waits_for = nullptr;
          m.now = &t;
          threadIdx = {i % blockDim.x, i / blockDim.x};
          t.fiber.resume();
          again = ran = true;
          if (m.failure) std::rethrow_exception(std::exchange(m.failure, nullptr));
        }
      }
    if (!ran) throw std::logic_error("cuda_on_cpu: a barrier, a shuffle or a product that not all of its threads reach");
  }
}

// mma.sync m16n8k32, int8, and m16n8k16, two bytes an element: which element of which operand each lane holds is written down as in the PTX manual,
// by row and column, and nowhere else in these tests.
struct Operands {
  unsigned a[4], b[2];
};

template <class Accumulator, int kDepth, class Element>
void mma(Accumulator (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], Element element) {
  constexpr int kPerWord = kDepth / 8;  // 4 bytes or 2 halves
  Operands own;
  std::memcpy(own.a, a, sizeof a), std::memcpy(own.b, b, sizeof b);
  const Given<Operands> all = exchanged(own);
  const int group = lane() / 4, within = lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = group + (i < 2 ? 0 : 8), column = within * 2 + i % 2;
    std::conditional_t<std::is_same_v<Accumulator, float>, double, Accumulator> sum = d[i];
    for (int k = 0; k < kDepth; ++k) {
      const bool upper = k >= kDepth / 2;
      const int place = k % (kDepth / 2);
      const Operands& of_a = all.of[row % 8 * 4 + place / kPerWord];
      const Operands& of_b = all.of[column * 4 + place / kPerWord];
      sum += element(of_a.a[(row >= 8 ? 1 : 0) + (upper ? 2 : 0)], place % kPerWord) * element(of_b.b[upper ? 1 : 0], place % kPerWord);
    }
    d[i] = static_cast<Accumulator>(sum);
  }
}

inline float half_value(unsigned bits) { return static_cast<float>(std::bit_cast<_Float16>(static_cast<std::uint16_t>(bits))); }
inline float bfloat_value(unsigned bits) { return std::bit_cast<float>(bits << 16); }

inline void mma_s8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  mma<int, 32>(d, a, b, [](unsigned word, int i) { return static_cast<int>(static_cast<std::int8_t>(word >> (8 * i))); });
}
inline void mma_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  mma<float, 16>(d, a, b, [](unsigned word, int i) { return static_cast<double>(half_value(word >> (16 * i) & 0xffffu)); });
}
inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  mma<float, 16>(d, a, b, [](unsigned word, int i) { return static_cast<double>(bfloat_value(word >> (16 * i) & 0xffffu)); });
}

}  // namespace cuda_on_cpu

// ---- what device code calls ----

inline void __syncthreads() { cuda_on_cpu::wait_at(cuda_on_cpu::machine.block, cuda_on_cpu::machine.alive); }
inline void __syncwarp() { cuda_on_cpu::warp_barrier(); }
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int step) {
  if (mask != 0xffffffffu) throw std::logic_error("cuda_on_cpu: a shuffle of a part of a warp");
  return cuda_on_cpu::exchanged(value).of[cuda_on_cpu::lane() ^ step];
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned step) {
  if (mask != 0xffffffffu) throw std::logic_error("cuda_on_cpu: a shuffle of a part of a warp");
  const int from = cuda_on_cpu::lane() - static_cast<int>(step);
  return cuda_on_cpu::exchanged(value).of[from < 0 ? cuda_on_cpu::lane() : from];
}
inline unsigned atomicOr(unsigned* at, unsigned bits) {
  const unsigned before = *at;
  *at |= bits;
  return before;
}

template <class T>
T __ldg(const T* at) {
  return *at;
}

inline unsigned __float_as_uint(float f) { return std::bit_cast<unsigned>(f); }
inline float __uint_as_float(unsigned u) { return std::bit_cast<float>(u); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline int __popc(unsigned u) { return std::popcount(u); }
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
  return static_cast<unsigned>((static_cast<std::uint64_t>(high) << 32 | low) >> (by & 31));
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const std::uint64_t both = static_cast<std::uint64_t>(b) << 32 | a;
  unsigned out = 0;
  for (unsigned i = 0; i < 4; ++i) out |= static_cast<unsigned>(both >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
  return out;
}

// ---- what host code calls ----

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
  void* attrs;
  unsigned numAttrs;
};
inline const char* cudaGetErrorString(cudaError_t) { return "none"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* at, int value, std::size_t bytes, cudaStream_t) {
  std::memset(at, value, bytes);
  return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  using namespace cuda_on_cpu;
  blockDim = config->blockDim, gridDim = config->gridDim;
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  if (threads == 0 || threads > 1024 || gridDim.x == 0 || gridDim.y == 0 || gridDim.y > 65535 || gridDim.z != 1)
    throw std::logic_error("cuda_on_cpu: a launch that CUDA refuses");
  const std::function<void()> body = [&] { kernel(arguments...); };
  for (unsigned y = 0; y < gridDim.y; ++y)
    for (unsigned x = 0; x < gridDim.x; ++x) {
      blockIdx = {x, y};
      run_block(body, threads);
    }
  return cudaSuccess;
}
