#include "decode_attention.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "cpu_rows.h"
#include "tenon/device.h"

namespace tenon::nn {

namespace {
using rows::F16;
using rows::kLanes;

constexpr int64_t kPair = 2 * kLanes;         // elements taken together
constexpr int64_t kSerialElements = 1 << 15;  // less than this is done before another thread has woken

// 32 elements as two vectors, in an order that is the same for every row of a type: that is all a sum of products asks for. The even bfloat16
// values and the odd ones are one shift or mask away; widening them in order costs four times as much.
TENON_INLINE void load_pair(const float* from, F16& a, F16& b) {
  rows::load16(from, a);
  rows::load16(from + kLanes, b);
}
TENON_INLINE void store_pair(float* to, const F16& a, const F16& b) {
  rows::store16(to, a);
  rows::store16(to + kLanes, b);
}
TENON_INLINE void load_pair(const at::BFloat16* from, F16& a, F16& b) {
  rows::U16 both;
  std::memcpy(&both, from, sizeof both);
  a = (F16)(both << 16);
  b = (F16)(both & 0xffff0000u);
}
TENON_INLINE void store_pair(at::BFloat16* to, const F16& a, const F16& b) {
  F16 even = a, odd = b;
  rows::round_to<at::BFloat16>(even);
  rows::round_to<at::BFloat16>(odd);
  const rows::U16 both = ((rows::U16)even >> 16) | ((rows::U16)odd & 0xffff0000u);
  std::memcpy(to, &both, sizeof both);
}

// How many queries pass over the keys together: as many as their vectors find registers.
constexpr int64_t together(int64_t pairs) { return pairs <= 2 ? 4 : pairs <= 4 ? 2 : 1; }

// One unit of work: the queries of one key head. Strides in elements; the last dimension is dense.
struct Job {
  const void *q, *k, *v, *bias;
  void* y;
  float* scores;  // scratch: [units, queries together, padded keys]
  int64_t kv_heads, group, keys, padded_keys;
  int64_t q_batch, q_head, k_batch, k_head, k_key, v_batch, v_head, v_key, bias_batch;
  float scale;
};

// Scores of `n` queries over all keys.
template <int64_t P, int64_t n, class T>
TENON_INLINE void score(const Job& job, const T* q, const T* k, float* scores) {
  F16 query[n][2 * P], key[2 * P];
  TENON_UNROLL
  for (int64_t r = 0; r < n; ++r) {
    TENON_UNROLL
    for (int64_t i = 0; i < P; ++i) {
      load_pair(q + r * job.q_head + i * kPair, query[r][2 * i], query[r][2 * i + 1]);
      query[r][2 * i] *= job.scale;
      query[r][2 * i + 1] *= job.scale;
    }
  }
  for (int64_t s = 0; s < job.keys; ++s) {
    TENON_UNROLL
    for (int64_t i = 0; i < P; ++i) load_pair(k + s * job.k_key + i * kPair, key[2 * i], key[2 * i + 1]);
    TENON_UNROLL
    for (int64_t r = 0; r < n; ++r) {
      F16 even = query[r][0] * key[0], odd = query[r][1] * key[1];
      TENON_UNROLL
      for (int64_t i = 1; i < P; ++i) {
        even += query[r][2 * i] * key[2 * i];
        odd += query[r][2 * i + 1] * key[2 * i + 1];
      }
      scores[r * job.padded_keys + s] = rows::sum(even + odd);
    }
  }
}

// Scores to weights, in place; the weights past the last key become 0. Returns their sum.
template <class T>
TENON_INLINE float soften(const Job& job, const T* bias, float* scores) {
  using rows::load16, rows::store16;
  F16 v, b, top;
  for (int64_t i = 0; i < kLanes; ++i) top[i] = -std::numeric_limits<float>::infinity();
  for (int64_t s = job.keys; s < job.padded_keys; ++s) scores[s] = -std::numeric_limits<float>::infinity();
  for (int64_t s = 0; s < job.padded_keys; s += kLanes) {
    load16(scores + s, v);
    if (bias) {
      rows::load(bias + s, std::min(kLanes, job.keys - s), b);
      v += b;
      store16(scores + s, v);
    }
    top = v > top ? v : top;
  }
  float highest = top[0];
  for (int64_t i = 1; i < kLanes; ++i) highest = std::max(highest, top[i]);
  F16 total = {};
  for (int64_t s = 0; s < job.padded_keys; s += kLanes) {
    load16(scores + s, v);
    v -= highest;
    rows::exp_of_negative(v);
    store16(scores + s, v);
    total += v;
  }
  return rows::sum(total);
}

template <int64_t P, int64_t n, class T>
TENON_INLINE void mix(const Job& job, const T* v, const float* weights, const float* totals, T* y) {
  F16 even, odd, mixed[n][2 * P];
  TENON_UNROLL
  for (int64_t r = 0; r < n; ++r) {
    TENON_UNROLL
    for (int64_t i = 0; i < 2 * P; ++i) mixed[r][i] = F16{};
  }
  for (int64_t s = 0; s < job.keys; ++s) {
    TENON_UNROLL
    for (int64_t i = 0; i < P; ++i) {
      load_pair(v + s * job.v_key + i * kPair, even, odd);
      TENON_UNROLL
      for (int64_t r = 0; r < n; ++r) {
        const float weight = weights[r * job.padded_keys + s];
        mixed[r][2 * i] += weight * even;
        mixed[r][2 * i + 1] += weight * odd;
      }
    }
  }
  TENON_UNROLL
  for (int64_t r = 0; r < n; ++r) {
    TENON_UNROLL
    for (int64_t i = 0; i < P; ++i) store_pair(y + (r * P + i) * kPair, mixed[r][2 * i] / totals[r], mixed[r][2 * i + 1] / totals[r]);
  }
}

// `n` queries of one group, from scores to output.
template <int64_t P, int64_t n, class T>
TENON_INLINE void attend_together(const Job& job, const T* q, const T* k, const T* v, const T* bias, float* scores, T* y) {
  score<P, n>(job, q, k, scores);
  float totals[n];
  for (int64_t r = 0; r < n; ++r) totals[r] = soften(job, bias, scores + r * job.padded_keys);
  mix<P, n>(job, v, scores, totals, y);
}

template <int64_t P, class T>
TENON_INLINE void attend(const Job& job, int64_t begin, int64_t end) {
  constexpr int64_t n = together(P);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t b = unit / job.kv_heads, h = unit % job.kv_heads;
    const T* q = static_cast<const T*>(job.q) + b * job.q_batch + h * job.group * job.q_head;
    const T* k = static_cast<const T*>(job.k) + b * job.k_batch + h * job.k_head;
    const T* v = static_cast<const T*>(job.v) + b * job.v_batch + h * job.v_head;
    const T* bias = job.bias ? static_cast<const T*>(job.bias) + b * job.bias_batch : nullptr;
    T* y = static_cast<T*>(job.y) + unit * job.group * P * kPair;
    float* scores = job.scores + unit * n * job.padded_keys;
    int64_t r = 0;
    for (; r + n <= job.group; r += n) attend_together<P, n>(job, q + r * job.q_head, k, v, bias, scores, y + r * P * kPair);
    for (; r < job.group; ++r) attend_together<P, 1>(job, q + r * job.q_head, k, v, bias, scores, y + r * P * kPair);
  }
}

bool has_kernel(int64_t head_dim) { return head_dim == 32 || head_dim == 64 || head_dim == 96 || head_dim == 128 || head_dim == 256; }

template <class T>
TENON_INLINE void attend_any(const Job& job, int64_t head_dim, int64_t begin, int64_t end) {
  switch (head_dim) {
    case 32: return attend<1, T>(job, begin, end);
    case 64: return attend<2, T>(job, begin, end);
    case 96: return attend<3, T>(job, begin, end);
    case 128: return attend<4, T>(job, begin, end);
    default: return attend<8, T>(job, begin, end);
  }
}
TENON_CPU_CLONES void attend_float(const Job& job, int64_t head_dim, int64_t begin, int64_t end) {
  attend_any<float>(job, head_dim, begin, end);
}
TENON_CPU_CLONES void attend_bfloat16(const Job& job, int64_t head_dim, int64_t begin, int64_t end) {
  attend_any<at::BFloat16>(job, head_dim, begin, end);
}
}  // namespace

at::Tensor decode_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& bias, double scale) {
  const at::ScalarType dtype = q.scalar_type();
  const int64_t head_dim = q.size(3), batch = q.size(0), heads = q.size(1), kv_heads = k.size(1), keys = k.size(2);
  if (!q.is_cpu() || (dtype != at::kFloat && dtype != at::kBFloat16) || !has_kernel(head_dim) || v.size(3) != head_dim || keys == 0 ||
      q.stride(3) != 1 || k.stride(3) != 1 || v.stride(3) != 1 || k.scalar_type() != dtype || v.scalar_type() != dtype)
    return {};
  if (bias.defined() && (bias.scalar_type() != dtype || bias.stride(3) != 1)) return {};
  if (at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad())) return {};

  const int64_t group = heads / kv_heads, padded_keys = (keys + kLanes - 1) / kLanes * kLanes;
  at::Tensor y = at::empty({batch, heads, 1, head_dim}, q.options());
  const int64_t n = together(head_dim / kPair);
  const at::Tensor scores = at::empty({batch * kv_heads * n * padded_keys}, q.options().dtype(at::kFloat));
  const Job job{.q = q.const_data_ptr(),
                .k = k.const_data_ptr(),
                .v = v.const_data_ptr(),
                .bias = bias.defined() ? bias.const_data_ptr() : nullptr,
                .y = y.mutable_data_ptr(),
                .scores = scores.mutable_data_ptr<float>(),
                .kv_heads = kv_heads,
                .group = group,
                .keys = keys,
                .padded_keys = padded_keys,
                .q_batch = q.stride(0),
                .q_head = q.stride(1),
                .k_batch = k.stride(0),
                .k_head = k.stride(1),
                .k_key = k.stride(2),
                .v_batch = v.stride(0),
                .v_head = v.stride(1),
                .v_key = v.stride(2),
                .bias_batch = bias.defined() && bias.size(0) > 1 ? bias.stride(0) : 0,
                .scale = static_cast<float>(scale)};
  const auto kernel = dtype == at::kFloat ? attend_float : attend_bfloat16;
  const int64_t units = batch * kv_heads;
  if (units == 1 || heads * batch * keys * head_dim < kSerialElements)
    kernel(job, head_dim, 0, units);
  else
    parallel_for(units, 1, [&](int64_t begin, int64_t end) { kernel(job, head_dim, begin, end); });
  return y;
}

}  // namespace tenon::nn
