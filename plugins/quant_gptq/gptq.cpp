#include "gptq.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>

#include <algorithm>

#include "bits.h"
#include "gptq_cuda.h"
#include "hessian.h"
#include "moments.h"
#include "solve.h"
#include "tenon/device.h"

namespace tenon::gptq {

namespace {

constexpr int64_t kDequantizeElements = 1 << 16;                // a thread's least share
constexpr int64_t kMultiplyRows = 16;                           // weight rows, likewise
constexpr float kLeastScale = 0x1p-24f, kMostScale = 65504.0f;  // what float16 holds besides 0

}  // namespace

Dtype kernel_dtype(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat: return Dtype::F32;
    case at::kBFloat16: return Dtype::Bf16;
    case at::kHalf: return Dtype::F16;
    default: fail(ErrorCode::Plugin, "gptq weights become float32, bfloat16 or float16, asked for ", c10::toString(dtype));
  }
}

Gptq::Gptq(const Options& options) : options_(options), overrides_(options) {}

QuantizerFacts Gptq::facts() const {
  const double group = options_.group_size > 0 ? static_cast<double>(options_.group_size) : 4096;
  // Rounding to nearest without calibration, of normal weights in the widest groups with a middle zero point: what the tests measure, with room.
  const double error = options_.bits == 2 ? 1.0 : options_.bits == 3 ? 0.55 : options_.bits == 4 ? 0.25 : 0.02;
  return {.bits_per_weight = static_cast<double>(options_.bits) + 24 / group,
          .devices = cuda::is_built() ? std::vector<std::string>{"cpu", "cuda"} : std::vector<std::string>{"cpu"},
          .needs_calibration = true,
          .calibrates_by_stage = options_.true_sequential,
          .max_relative_error = error};
}

Support Gptq::supports(const SlotSpec& slot) const {
  if (const Support base = Quantizer::supports(slot); !base.yes) return base;
  if (overrides_.excludes(slot.path)) return Support::no("the option dynamic leaves it dense");
  if (slot.in % 32 != 0 || slot.out % 32 != 0)
    return Support::no(concat("GPTQ files pack 32 rows and columns together, the weight is ", slot.out, " x ", slot.in));
  return {};
}

std::vector<TensorSpec> Gptq::resident(const SlotSpec& slot) const {
  const Settings s = overrides_.of(slot);
  const int64_t groups = s.groups(slot.in);
  std::vector<TensorSpec> specs{{"codes", {slot.out, slot.in * s.bits / 32}, at::kInt},
                                {"scales", {slot.out, groups}, at::kHalf},
                                {"zeros", {slot.out, groups}, at::kByte}};
  if (s.is_reordered()) specs.push_back({"order", {slot.in}, at::kInt});
  return specs;
}

std::unique_ptr<Observer> Gptq::make_observer(const SlotSpec& slot) const { return std::make_unique<Hessian>(slot.path, slot.in); }

int64_t Gptq::calibration_bytes(const SlotSpec& slot) const {
  // Second moments, a sorted copy, their factor and its inverse, all in float32; of the weight at work two float32 copies and its codes.
  return slot.in * slot.in * 4 * 4 + moments_bytes(slot.in) + slot.numel() * 9;
}

Tensors Gptq::quantize(const SlotSpec& slot, const at::Tensor& weight, const Observer* calibration) const {
  const Settings s = overrides_.of(slot);
  const auto* hessian = dynamic_cast<const Hessian*>(calibration);
  if (calibration && !hessian) fail(ErrorCode::Internal, "gptq was given the observer of another quantizer");
  std::shared_ptr<const Factor> factor;
  if (hessian && hessian->tokens() > 0) factor = hessian->factor(s);
  const Solution found = solve(weight.to(at::kCPU).reshape({slot.out, slot.in}), s, factor.get());

  at::Tensor codes = at::empty({slot.out, slot.in * s.bits / 32}, at::kInt);
  parallel_for(slot.out, std::max<int64_t>(1, kDequantizeElements / slot.in), [&](int64_t from, int64_t to) {
    for (int64_t row = from; row < to; ++row)
      pack_codes(found.codes.const_data_ptr<uint8_t>() + row * slot.in, slot.in, s.bits,
                 reinterpret_cast<uint32_t*>(codes.mutable_data_ptr<int32_t>()) + row * codes.size(1));
  });
  Tensors result{codes, found.scales.clamp(kLeastScale, kMostScale).to(at::kHalf), found.zeros};
  if (s.is_reordered()) result.push_back(found.order);
  for (auto& tensor : result) tensor = tensor.to(weight.device());
  return result;
}

Weight Gptq::view(const SlotSpec& slot, const Tensors& tensors) const {
  const Settings s = overrides_.of(slot);
  return {.codes = reinterpret_cast<const uint32_t*>(tensors[kCodes].const_data_ptr<int32_t>()),
          .scales = reinterpret_cast<const uint16_t*>(tensors[kScales].const_data_ptr<at::Half>()),
          .zeros = tensors[kZeros].const_data_ptr<uint8_t>(),
          .order = s.is_reordered() ? tensors[kOrder].const_data_ptr<int32_t>() : nullptr,
          .bits = s.bits,
          .group = s.group,
          .rows = slot.out,
          .cols = slot.in};
}

at::Tensor Gptq::dequantize(const SlotSpec& slot, const Tensors& tensors, at::ScalarType dtype, int64_t first_row, int64_t last_row) const {
  const Weight weight = view(slot, tensors);
  if (!tensors[kCodes].is_cpu()) return dequantize_on_device(weight, tensors[kCodes], dtype, first_row, last_row);
  const Dtype kind = kernel_dtype(dtype);
  at::Tensor out = at::empty({last_row - first_row, slot.in}, at::TensorOptions().dtype(dtype));
  char* data = static_cast<char*>(out.mutable_data_ptr());
  const int64_t row_bytes = slot.in * static_cast<int64_t>(out.element_size());
  parallel_for(last_row - first_row, std::max<int64_t>(1, kDequantizeElements / slot.in), [&](int64_t from, int64_t to) {
    std::vector<float> scratch(static_cast<size_t>(slot.in));
    kernels().dequantize(weight, first_row + from, first_row + to, kind, data + from * row_bytes, scratch.data());
  });
  return out;
}

at::Tensor Gptq::linear(const SlotSpec& slot, const at::Tensor& x, const Tensors& tensors) const {
  const Operand one{&slot, &tensors};
  return linear_many({&one, 1}, x)[0];
}

std::vector<at::Tensor> Gptq::linear_many(std::span<const Operand> weights, const at::Tensor& x) const {
  const int64_t in = weights.front().slot->in, m = in > 0 ? x.numel() / in : 0;
  if (!x.is_cpu()) return linear_on_device(weights, x);
  if (m > kFusedRows || m == 0) {
    std::vector<at::Tensor> outputs;
    for (const Operand& w : weights) outputs.push_back(Quantizer::linear(*w.slot, x, *w.tensors));
    return outputs;
  }
  const at::Tensor plain = x.reshape({m, in}).to(at::kFloat).contiguous();
  std::vector<Weight> views;
  std::vector<at::Tensor> inputs, outputs;
  std::vector<int64_t> starts{0};
  for (const Operand& w : weights) {
    views.push_back(view(*w.slot, *w.tensors));
    inputs.push_back(views.back().order ? plain.index_select(1, (*w.tensors)[kOrder]) : plain);
    outputs.push_back(at::empty({m, w.slot->out}, at::kFloat));
    starts.push_back(starts.back() + w.slot->out);
  }
  // The rows of all weights in one row: a thread's share may cross from one weight into the next.
  parallel_for(starts.back(), kMultiplyRows, [&](int64_t from, int64_t to) {
    for (size_t i = 0; i < views.size(); ++i) {
      const int64_t first = std::max(from, starts[i]) - starts[i], last = std::min(to, starts[i + 1]) - starts[i];
      if (first < last)
        kernels().multiply(views[i], inputs[i].const_data_ptr<float>(), m, first, last, outputs[i].mutable_data_ptr<float>());
    }
  });
  std::vector<int64_t> shape = x.sizes().vec();
  for (auto& y : outputs) {
    shape.back() = y.size(-1);
    y = y.view(shape).to(x.scalar_type());
  }
  return outputs;
}

}  // namespace tenon::gptq
