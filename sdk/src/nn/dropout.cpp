#include "tenon/nn/dropout.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/bernoulli.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>

#include "cpu_rows.h"
#include "tenon/device.h"

namespace tenon::nn {

namespace {
using rows::F16;
using rows::kLanes;
using rows::U16;

struct Job {
  const void* x;
  void* y;
  uint64_t seed;
  uint32_t limit;  // hashes below are dropped
  float scale;
};

uint64_t mixed(uint64_t v) {  // splitmix64's last steps
  v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9u;
  v = (v ^ (v >> 27)) * 0x94d049bb133111ebu;
  return v ^ (v >> 31);
}

template <class T>
TENON_INLINE void drop_range(const Job& job, int64_t begin, int64_t end) {
  const T* x = static_cast<const T*>(job.x);
  T* y = static_cast<T*>(job.y);
  U16 lanes;
  for (int64_t i = 0; i < kLanes; ++i) lanes[i] = static_cast<uint32_t>(i);
  for (int64_t i = begin; i < end; i += kLanes) {
    // Where the lower half of the index starts again, another seed.
    const uint64_t seed = mixed(job.seed + (static_cast<uint64_t>(i) >> 32) * 0x9e3779b97f4a7c15u);
    U16 hash = (lanes + static_cast<uint32_t>(i)) * 0x9e3779b1u + static_cast<uint32_t>(seed);
    hash = (hash ^ (hash >> 16)) * 0x85ebca6bu;
    hash = ((hash ^ (hash >> 13)) ^ static_cast<uint32_t>(seed >> 32)) * 0xc2b2ae35u;
    hash = (hash ^ (hash >> 16)) * 0x27d4eb2fu;
    hash = hash ^ (hash >> 15);
    F16 v;
    rows::load(x + i, std::min(kLanes, end - i), v);
    const U16 kept = (U16)(v * job.scale) & (U16)(hash >= job.limit);
    rows::store(y + i, std::min(kLanes, end - i), (F16)kept);
  }
}

TENON_CPU_CLONES void drop_float(const Job& job, int64_t begin, int64_t end) { drop_range<float>(job, begin, end); }
TENON_CPU_CLONES void drop_bfloat16(const Job& job, int64_t begin, int64_t end) { drop_range<c10::BFloat16>(job, begin, end); }
TENON_CPU_CLONES void drop_half(const Job& job, int64_t begin, int64_t end) { drop_range<c10::Half>(job, begin, end); }

bool has_kernel(const at::Tensor& x) {
  return x.is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kHalf);
}
}  // namespace

DropoutMask draw_dropout(const at::Tensor& x, double share) {
  DropoutMask mask{.share = share};
  if (share <= 0) return mask;
  if (has_kernel(x))
    mask.seed = at::empty({1}, at::kLong).random_().item<int64_t>();
  else
    mask.kept = at::empty_like(x, x.options().dtype(at::kBool).requires_grad(false)).bernoulli_(1 - share);
  return mask;
}

at::Tensor apply_dropout(const at::Tensor& x, const DropoutMask& mask) {
  if (mask.share <= 0) return x;
  const at::NoGradGuard no_grad;
  if (mask.kept.defined()) return (x * mask.kept).mul_(1 / (1 - mask.share));
  const at::Tensor from = x.contiguous(), y = at::empty(x.sizes(), x.options());
  const Job job{.x = from.const_data_ptr(),
                .y = y.mutable_data_ptr(),
                .seed = static_cast<uint64_t>(mask.seed),
                .limit = static_cast<uint32_t>(mask.share * 4294967296.0),
                .scale = static_cast<float>(1 / (1 - mask.share))};
  const at::ScalarType dtype = x.scalar_type();
  // Whole vectors, so that a hash is computed for the same elements whatever the threads.
  parallel_for((x.numel() + kLanes - 1) / kLanes, rows::kSerialElements / kLanes, [&](int64_t first, int64_t last) {
    const int64_t begin = first * kLanes, end = std::min(last * kLanes, x.numel());
    if (dtype == at::kFloat)
      drop_float(job, begin, end);
    else if (dtype == at::kBFloat16)
      drop_bfloat16(job, begin, end);
    else
      drop_half(job, begin, end);
  });
  return y;
}

}  // namespace tenon::nn
