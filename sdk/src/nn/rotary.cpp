// Rotary embeddings: tables and rotation.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sin.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "cpu_rows.h"
#include "tenon/device.h"
#include "tenon/nn/rotary.h"

namespace tenon::nn {

namespace {

// One row: the heads of one token. Strides in elements; direction -1 turns back.
struct Turn {
  const void* x;
  void* y;
  const float *cos, *sin;
  int64_t tokens, heads, head_dim, rotary_dim;
  int64_t x_batch, x_token, x_head, y_token, table_batch, table_token;
  float direction;
};

template <class T>
TENON_INLINE void turn_rows(const Turn& job, int64_t begin, int64_t end) {
  using namespace rows;
  const int64_t half = job.rotary_dim / 2;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t b = r / job.tokens, t = r % job.tokens;
    const float* cos = job.cos + b * job.table_batch + t * job.table_token;
    const float* sin = job.sin + b * job.table_batch + t * job.table_token;
    for (int64_t h = 0; h < job.heads; ++h) {
      const T* x = static_cast<const T*>(job.x) + b * job.x_batch + t * job.x_token + h * job.x_head;
      T* y = static_cast<T*>(job.y) + r * job.y_token + h * job.head_dim;
      for (int64_t i = 0; i < half; i += kLanes) {
        F16 low, high, c, s, c_high, s_high;
        load(x + i, half - i, low);
        load(x + half + i, half - i, high);
        load(cos + i, half - i, c);
        load(sin + i, half - i, s);
        load(cos + half + i, half - i, c_high);
        load(sin + half + i, half - i, s_high);
        const F16 y_low = low * c - high * s * job.direction;
        const F16 y_high = high * c_high + low * s_high * job.direction;
        store(y + i, half - i, y_low);
        store(y + half + i, half - i, y_high);
      }
      if (x != y)
        for (int64_t i = job.rotary_dim; i < job.head_dim; ++i) y[i] = x[i];
    }
  }
}

TENON_CPU_CLONES void turn_float(const Turn& job, int64_t begin, int64_t end) { turn_rows<float>(job, begin, end); }
TENON_CPU_CLONES void turn_bfloat16(const Turn& job, int64_t begin, int64_t end) { turn_rows<at::BFloat16>(job, begin, end); }
TENON_CPU_CLONES void turn_half(const Turn& job, int64_t begin, int64_t end) { turn_rows<at::Half>(job, begin, end); }

using Kernel = void (*)(const Turn&, int64_t, int64_t);
Kernel find_kernel(at::ScalarType dtype) {
  return dtype == at::kFloat ? turn_float : dtype == at::kBFloat16 ? turn_bfloat16 : dtype == at::kHalf ? turn_half : nullptr;
}

at::Tensor turn(const at::Tensor& x_in, const at::Tensor& cos_in, const at::Tensor& sin_in, float direction, bool in_place) {
  const int64_t rotary_dim = cos_in.size(-1);
  const Kernel kernel = x_in.is_cpu() ? find_kernel(x_in.scalar_type()) : nullptr;
  if (kernel && x_in.numel() > 0) {
    const at::Tensor x = x_in.stride(3) == 1 ? x_in : x_in.contiguous();
    const at::Tensor cos = cos_in.stride(2) == 1 ? cos_in : cos_in.contiguous();
    const at::Tensor sin = sin_in.strides() == cos.strides() ? sin_in : sin_in.contiguous();
    const at::Tensor matching_cos = sin.strides() == cos.strides() ? cos : cos.contiguous();
    at::Tensor y = in_place && x.is_contiguous() ? x : at::empty(x.sizes(), x.options());
    const int64_t rows = x.size(0) * x.size(1), elements = x.size(2) * x.size(3);
    const Turn job{.x = x.const_data_ptr(),
                   .y = y.mutable_data_ptr(),
                   .cos = matching_cos.const_data_ptr<float>(),
                   .sin = sin.const_data_ptr<float>(),
                   .tokens = x.size(1),
                   .heads = x.size(2),
                   .head_dim = x.size(3),
                   .rotary_dim = rotary_dim,
                   .x_batch = x.stride(0),
                   .x_token = x.stride(1),
                   .x_head = x.stride(2),
                   .y_token = elements,
                   .table_batch = sin.size(0) == 1 ? 0 : sin.stride(0),
                   .table_token = sin.stride(1),
                   .direction = direction};
    if (rows * elements <= rows::kSerialElements)
      kernel(job, 0, rows);
    else
      parallel_for(rows, (rows::kSerialElements + elements - 1) / elements, [&](int64_t begin, int64_t end) { kernel(job, begin, end); });
    return y;
  }
  const at::Tensor wide = x_in.narrow(-1, 0, rotary_dim).to(at::kFloat);
  const at::Tensor low = wide.narrow(-1, 0, rotary_dim / 2), high = wide.narrow(-1, rotary_dim / 2, rotary_dim / 2);
  const at::Tensor turned =
      (wide * cos_in.unsqueeze(2) + at::cat({-high, low}, -1) * (sin_in.unsqueeze(2) * direction)).to(x_in.scalar_type());
  if (rotary_dim == x_in.size(-1)) return turned;
  return at::cat({turned, x_in.narrow(-1, rotary_dim, x_in.size(-1) - rotary_dim)}, -1);
}

struct ApplyRotary : torch::autograd::Function<ApplyRotary> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
    context->save_for_backward({cos, sin});
    return turn(x, cos, sin, 1, false);
  }
  // A rotation's transpose turns back; the two halves of the tables are equal.
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    return {turn(grads[0], saved[0], saved[1], -1, false), at::Tensor(), at::Tensor()};
  }
};
}  // namespace

Rotary rotary_tables(const RotaryArgs& args) {
  at::Tensor positions = args.positions.select(0, 0);
  const int64_t batch = positions.size(0), tokens = positions.size(1), half = args.inv_freq.numel();
  // Rows that are views of one row are computed once.
  const bool shared = batch > 1 && positions.stride(0) == 0;
  if (shared) positions = positions.narrow(0, 0, 1);
  at::Tensor cos, sin;
  if (positions.is_cpu() && args.inv_freq.is_cpu()) {
    positions = positions.to(at::kLong).contiguous();
    const at::Tensor frequencies = args.inv_freq.to(at::kFloat).contiguous();
    cos = at::empty({positions.size(0), tokens, 2 * half}, frequencies.options());
    sin = at::empty({positions.size(0), tokens, 2 * half}, frequencies.options());
    const int64_t* position = positions.const_data_ptr<int64_t>();
    const float* frequency = frequencies.const_data_ptr<float>();
    float *c = cos.mutable_data_ptr<float>(), *s = sin.mutable_data_ptr<float>();
    const float scaling = static_cast<float>(args.attention_scaling);
    const auto fill = [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t i = 0; i < half; ++i) {
          const float angle = static_cast<float>(position[r]) * frequency[i];
          c[r * 2 * half + i] = c[r * 2 * half + half + i] = std::cos(angle) * scaling;
          s[r * 2 * half + i] = s[r * 2 * half + half + i] = std::sin(angle) * scaling;
        }
    };
    const int64_t rows = positions.numel();
    if (rows <= 8)
      fill(0, rows);
    else
      parallel_for(rows, 8, fill);
  } else {
    const at::Tensor angles = positions.to(at::kFloat).unsqueeze(-1) * args.inv_freq.to(positions.device());
    const at::Tensor doubled = at::cat({angles, angles}, -1);
    cos = at::cos(doubled) * args.attention_scaling;
    sin = at::sin(doubled) * args.attention_scaling;
  }
  if (shared) return {cos.expand({batch, tokens, 2 * half}), sin.expand({batch, tokens, 2 * half})};
  return {cos, sin};
}

at::Tensor apply_rotary(const at::Tensor& x, const Rotary& rotary, bool may_overwrite) {
  if (x.dim() != 4 || rotary.cos.dim() != 3 || rotary.cos.size(-1) > x.size(-1) || rotary.cos.size(1) != x.size(1))
    fail(ErrorCode::Internal, "rotary tables of shape [", rotary.cos.sizes(), "] do not fit heads of shape [", x.sizes(), "]");
  if (at::GradMode::is_enabled() && x.requires_grad()) return ApplyRotary::apply(x, rotary.cos, rotary.sin);
  return turn(x, rotary.cos, rotary.sin, 1, may_overwrite && !at::GradMode::is_enabled());
}

}  // namespace tenon::nn
