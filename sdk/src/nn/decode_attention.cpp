#include "decode_attention.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "cpu_rows.h"
#include "tenon/device.h"

namespace tenon::nn {

namespace {
constexpr int64_t kMaxVectors = 8;            // head_dim up to 128
constexpr int64_t kGroup = 2;                 // queries that pass over the keys together
constexpr int64_t kSerialElements = 1 << 15;  // less than this is done before another thread has woken

// One unit of work: the queries of one key head. Strides in elements; the last dimension is dense.
struct Job {
  const void *q, *k, *v, *bias;
  void* y;
  float* scores;  // [units, group, padded keys]
  int64_t kv_heads, group, keys, padded_keys;
  int64_t q_batch, q_head, k_batch, k_head, k_key, v_batch, v_head, v_key, bias_batch;
  float scale;
};

// Sum of products of two rows of V vectors.
template <int64_t V, class T>
TENON_INLINE float dot(const rows::F16* q, const T* k) {
  rows::F16 key, total = {};
  TENON_UNROLL
  for (int64_t i = 0; i < V; ++i) {
    rows::load16(k + i * rows::kLanes, key);
    total += q[i] * key;
  }
  return rows::sum(total);
}

// Scores of `n` queries over all keys.
template <int64_t V, int64_t n, class T>
TENON_INLINE void score(const Job& job, const T* q, const T* k, float* scores) {
  rows::F16 query[n][V];
  TENON_UNROLL
  for (int64_t r = 0; r < n; ++r) {
    TENON_UNROLL
    for (int64_t i = 0; i < V; ++i) {
      rows::load16(q + r * job.q_head + i * rows::kLanes, query[r][i]);
      query[r][i] *= job.scale;
    }
  }
  for (int64_t s = 0; s < job.keys; ++s) {
    TENON_UNROLL
    for (int64_t r = 0; r < n; ++r) scores[r * job.padded_keys + s] = dot<V>(query[r], k + s * job.k_key);
  }
}

// Scores to weights, in place; the weights past the last key become 0. Returns their sum.
template <class T>
TENON_INLINE float soften(const Job& job, const T* bias, float* scores) {
  using namespace rows;
  F16 v, b, top;
  for (int64_t i = 0; i < kLanes; ++i) top[i] = -std::numeric_limits<float>::infinity();
  for (int64_t s = job.keys; s < job.padded_keys; ++s) scores[s] = -std::numeric_limits<float>::infinity();
  for (int64_t s = 0; s < job.padded_keys; s += kLanes) {
    load16(scores + s, v);
    if (bias) {
      load(bias + s, std::min(kLanes, job.keys - s), b);
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
    exp_of_negative(v);
    store16(scores + s, v);
    total += v;
  }
  return sum(total);
}

template <int64_t V, int64_t n, class T>
TENON_INLINE void mix(const Job& job, const T* v, const float* weights, const float* totals, T* y) {
  rows::F16 value, mixed[n][V] = {};
  for (int64_t s = 0; s < job.keys; ++s) {
    TENON_UNROLL
    for (int64_t i = 0; i < V; ++i) {
      rows::load16(v + s * job.v_key + i * rows::kLanes, value);
      TENON_UNROLL
      for (int64_t r = 0; r < n; ++r) mixed[r][i] += weights[r * job.padded_keys + s] * value;
    }
  }
  TENON_UNROLL
  for (int64_t r = 0; r < n; ++r) {
    TENON_UNROLL
    for (int64_t i = 0; i < V; ++i) {
      mixed[r][i] /= totals[r];
      rows::store16(y + (r * V + i) * rows::kLanes, mixed[r][i]);
    }
  }
}

template <int64_t V, class T>
TENON_INLINE void attend(const Job& job, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t b = unit / job.kv_heads, h = unit % job.kv_heads;
    const T* q = static_cast<const T*>(job.q) + b * job.q_batch + h * job.group * job.q_head;
    const T* k = static_cast<const T*>(job.k) + b * job.k_batch + h * job.k_head;
    const T* v = static_cast<const T*>(job.v) + b * job.v_batch + h * job.v_head;
    const T* bias = job.bias ? static_cast<const T*>(job.bias) + b * job.bias_batch : nullptr;
    T* y = static_cast<T*>(job.y) + unit * job.group * V * rows::kLanes;
    float* scores = job.scores + unit * job.group * job.padded_keys;
    int64_t r = 0;
    for (; r + kGroup <= job.group; r += kGroup) score<V, kGroup>(job, q + r * job.q_head, k, scores + r * job.padded_keys);
    for (; r < job.group; ++r) score<V, 1>(job, q + r * job.q_head, k, scores + r * job.padded_keys);
    for (r = 0; r < job.group; r += kGroup) {
      const int64_t n = std::min(kGroup, job.group - r);
      float totals[kGroup];
      for (int64_t i = 0; i < n; ++i) totals[i] = soften(job, bias, scores + (r + i) * job.padded_keys);
      if (n == kGroup)
        mix<V, kGroup>(job, v, scores + r * job.padded_keys, totals, y + r * V * rows::kLanes);
      else
        mix<V, 1>(job, v, scores + r * job.padded_keys, totals, y + r * V * rows::kLanes);
    }
  }
}

template <class T>
TENON_INLINE void attend_any(const Job& job, int64_t vectors, int64_t begin, int64_t end) {
  switch (vectors) {
    case 1: return attend<1, T>(job, begin, end);
    case 2: return attend<2, T>(job, begin, end);
    case 3: return attend<3, T>(job, begin, end);
    case 4: return attend<4, T>(job, begin, end);
    case 5: return attend<5, T>(job, begin, end);
    case 6: return attend<6, T>(job, begin, end);
    case 7: return attend<7, T>(job, begin, end);
    default: return attend<8, T>(job, begin, end);
  }
}
TENON_CPU_CLONES void attend_float(const Job& job, int64_t vectors, int64_t begin, int64_t end) {
  attend_any<float>(job, vectors, begin, end);
}
TENON_CPU_CLONES void attend_bfloat16(const Job& job, int64_t vectors, int64_t begin, int64_t end) {
  attend_any<at::BFloat16>(job, vectors, begin, end);
}
}  // namespace

at::Tensor decode_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& bias, double scale) {
  const at::ScalarType dtype = q.scalar_type();
  const int64_t head_dim = q.size(3), batch = q.size(0), heads = q.size(1), kv_heads = k.size(1), keys = k.size(2);
  if (!q.is_cpu() || (dtype != at::kFloat && dtype != at::kBFloat16) || head_dim % rows::kLanes || head_dim > kMaxVectors * rows::kLanes ||
      v.size(3) != head_dim || keys == 0 || q.stride(3) != 1 || k.stride(3) != 1 || v.stride(3) != 1 || k.scalar_type() != dtype ||
      v.scalar_type() != dtype)
    return {};
  if (bias.defined() && (bias.scalar_type() != dtype || bias.stride(3) != 1)) return {};
  if (at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad())) return {};

  const int64_t group = heads / kv_heads, padded_keys = (keys + rows::kLanes - 1) / rows::kLanes * rows::kLanes;
  at::Tensor y = at::empty({batch, heads, 1, head_dim}, q.options());
  const at::Tensor scores = at::empty({batch * heads * padded_keys}, q.options().dtype(at::kFloat));
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
  const int64_t vectors = head_dim / rows::kLanes, units = batch * kv_heads;
  if (units == 1 || heads * batch * keys * head_dim < kSerialElements)
    kernel(job, vectors, 0, units);
  else
    parallel_for(units, 1, [&](int64_t begin, int64_t end) { kernel(job, vectors, begin, end); });
  return y;
}

}  // namespace tenon::nn
