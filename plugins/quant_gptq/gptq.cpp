#include "gptq.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "bits.h"
#include "gptq_cuda.h"
#include "hessian.h"
#include "moments.h"
#include "solve.h"
#include "tenon/device.h"
#include "tenon/nn/experts.h"
#include "tenon/nn/linear.h"

namespace tenon::gptq {

namespace {

constexpr int64_t kDequantizeElements = 1 << 16;                // a thread's least share
constexpr int64_t kMultiplyRows = 16;                           // weight rows, likewise
constexpr int64_t kColumns = 32;                                // that kernels take at a time
constexpr float kLeastScale = 0x1p-24f, kMostScale = 65504.0f;  // what float16 holds besides 0

// Zeros behind the last column, of which there shall be `columns`.
at::Tensor with_columns(const at::Tensor& t, int64_t columns) {
  return t.size(1) == columns ? t : at::constant_pad_nd(t, {0, columns - t.size(1)});
}

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
  if (slot.kind == SlotKind::Experts)
    return Support::no("calibration does not see the inputs of single experts: they stay dense unless the checkpoint has them packed");
  if (const Support base = Quantizer::supports(slot); !base.yes) return base;
  if (overrides_.excludes(slot)) return Support::no("the option dynamic leaves it dense");
  if (overrides_.of(slot).bits == 3 && (slot.in % 32 != 0 || slot.out % 32 != 0))
    return Support::no(concat("readers of 3-bit files want multiples of 32 rows and columns, the weight is ", slot.out, " x ", slot.in));
  return {};
}

Gptq::Layout Gptq::layout_of(const SlotSpec& slot) const {
  const Settings s = overrides_.of(slot);
  const int64_t columns = (slot.in + kColumns - 1) / kColumns * kColumns;
  const int64_t group = s.groups(slot.in) == 1 ? columns : s.group;
  const int64_t parts_each = slot.kind == SlotKind::Experts && s.is_reordered() ? modules_per_expert(slot) : 1;
  return {.settings = s,
          .columns = columns,
          .words = words_for(columns, s.bits),
          .group = group,
          .groups = (columns + group - 1) / group,
          .parts_each = parts_each,
          .part_rows = slot.out / parts_each};
}

std::vector<TensorSpec> Gptq::resident(const SlotSpec& slot) const {
  const Layout layout = layout_of(slot);
  const bool experts = slot.kind == SlotKind::Experts;
  const auto shape = [&](int64_t rows, int64_t columns) {
    return experts ? std::vector<int64_t>{slot.count, rows, columns} : std::vector<int64_t>{rows, columns};
  };
  std::vector<TensorSpec> specs{{"codes", shape(slot.out, layout.words), at::kInt},
                                {"scales", shape(slot.out, layout.groups), at::kHalf},
                                {"zeros", shape(slot.out, layout.groups), at::kByte}};
  if (layout.settings.is_reordered())
    specs.push_back({"order", experts ? shape(modules_per_expert(slot), layout.columns) : std::vector<int64_t>{layout.columns}, at::kInt});
  return specs;
}

std::unique_ptr<Observer> Gptq::make_observer(const SlotSpec& slot) const { return std::make_unique<Hessian>(slot.path, slot.in); }

int64_t Gptq::calibration_bytes(const SlotSpec& slot) const {
  // Second moments, a sorted copy, their factor and its inverse, all in float32; of the weight at work two float32 copies and its codes.
  return slot.in * slot.in * 4 * 4 + moments_bytes(slot.in) + slot.numel() * 9;
}

Tensors Gptq::quantize(const SlotSpec& slot, const at::Tensor& weight, const Observer* calibration) const {
  const Layout layout = layout_of(slot);
  const Settings& s = layout.settings;
  const auto* hessian = dynamic_cast<const Hessian*>(calibration);
  if (calibration && !hessian) fail(ErrorCode::Internal, "gptq was given the observer of another quantizer");
  std::shared_ptr<const Factor> factor;
  if (hessian && hessian->tokens() > 0) factor = hessian->factor(s);
  const Solution found = solve(weight.to(at::kCPU).reshape({slot.out, slot.in}), s, factor.get());

  at::Tensor codes = at::zeros({slot.out, layout.words}, at::kInt);
  parallel_for(slot.out, std::max<int64_t>(1, kDequantizeElements / slot.in), [&](int64_t from, int64_t to) {
    for (int64_t row = from; row < to; ++row)
      pack_codes(found.codes.const_data_ptr<uint8_t>() + row * slot.in, slot.in, s.bits,
                 reinterpret_cast<uint32_t*>(codes.mutable_data_ptr<int32_t>()) + row * layout.words);
  });
  Tensors result{codes, with_columns(found.scales.clamp(kLeastScale, kMostScale).to(at::kHalf), layout.groups),
                 with_columns(found.zeros, layout.groups)};
  if (s.is_reordered()) result.push_back(at::cat({found.order, at::arange(slot.in, layout.columns, at::kInt)}));
  for (auto& tensor : result) tensor = tensor.to(weight.device());
  return result;
}

Gptq::Part Gptq::part_of(const Layout& layout, const Tensors& tensors, int64_t part) const {
  const int64_t row = part * layout.part_rows;
  Part result;
  if (layout.settings.is_reordered()) result.order = tensors[kOrder].view({-1, layout.columns}).select(0, part);
  result.weight = {.codes = reinterpret_cast<const uint32_t*>(tensors[kCodes].const_data_ptr<int32_t>()) + row * layout.words,
                   .scales = reinterpret_cast<const uint16_t*>(tensors[kScales].const_data_ptr<at::Half>()) + row * layout.groups,
                   .zeros = tensors[kZeros].const_data_ptr<uint8_t>() + row * layout.groups,
                   .order = result.order.defined() ? result.order.const_data_ptr<int32_t>() : nullptr,
                   .bits = layout.settings.bits,
                   .group = layout.group,
                   .rows = layout.part_rows,
                   .cols = layout.columns};
  return result;
}

at::Tensor Gptq::dequantize(const SlotSpec& slot, const Tensors& tensors, at::ScalarType dtype, int64_t first_row, int64_t last_row) const {
  const Layout layout = layout_of(slot);
  const Dtype kind = kernel_dtype(dtype);
  const bool experts = slot.kind == SlotKind::Experts;
  const int64_t rows_each = experts ? slot.out : 1, begin = first_row * rows_each, end = last_row * rows_each;
  at::Tensor out = at::empty({end - begin, layout.columns}, tensors[kCodes].options().dtype(dtype));
  for (int64_t row = begin; row < end;) {
    const int64_t part = row / layout.part_rows, start = part * layout.part_rows, last = std::min(end, start + layout.part_rows);
    const Part at = part_of(layout, tensors, part);
    if (!out.is_cpu()) {
      dequantize_on_device(at.weight, row - start, last - start, out.narrow(0, row - begin, last - row));
    } else {
      const int64_t row_bytes = layout.columns * static_cast<int64_t>(out.element_size());
      char* data = static_cast<char*>(out.mutable_data_ptr()) + (row - begin) * row_bytes;
      parallel_for(last - row, std::max<int64_t>(1, kDequantizeElements / layout.columns), [&](int64_t from, int64_t to) {
        std::vector<float> scratch(static_cast<size_t>(layout.columns));
        kernels().dequantize(at.weight, row - start + from, row - start + to, kind, data + from * row_bytes, scratch.data());
      });
    }
    row = last;
  }
  if (layout.columns != slot.in) out = out.narrow(1, 0, slot.in).contiguous();
  return experts ? out.view({last_row - first_row, slot.out, slot.in}) : out;
}

at::Tensor Gptq::linear(const SlotSpec& slot, const at::Tensor& x, const Tensors& tensors) const {
  const Operand one{&slot, &tensors};
  return linear_many({&one, 1}, x)[0];
}

std::vector<at::Tensor> Gptq::linear_many(std::span<const Operand> weights, const at::Tensor& x) const {
  const int64_t in = weights.front().slot->in, m = in > 0 ? x.numel() / in : 0;
  if (x.is_cpu() && (m > kFusedRows || m == 0)) {
    std::vector<at::Tensor> outputs;
    for (const Operand& w : weights) outputs.push_back(Quantizer::linear(*w.slot, x, *w.tensors));
    return outputs;
  }
  std::vector<Part> parts;
  for (const Operand& w : weights) parts.push_back(part_of(layout_of(*w.slot), *w.tensors, 0));
  std::vector<at::Tensor> outputs = multiply(parts, x.reshape({m, in}));
  std::vector<int64_t> shape = x.sizes().vec();
  for (auto& y : outputs) {
    shape.back() = y.size(1);
    y = y.view(shape);
  }
  return outputs;
}

at::Tensor Gptq::grouped(const SlotSpec& slot, const at::Tensor& x, const at::Tensor& offsets, const Tensors& tensors) const {
  const Layout layout = layout_of(slot);
  at::Tensor y = at::empty({x.size(0), slot.out}, x.options());
  nn::for_each_expert(offsets, [&](int64_t e, int64_t first, int64_t tokens) {
    const at::Tensor input = x.narrow(0, first, tokens), output = y.narrow(0, first, tokens);
    if (x.is_cpu() && tokens > kFusedRows) {
      output.copy_(nn::linear(input, dequantize(slot, tensors, x.scalar_type(), e, e + 1)[0]));
      return;
    }
    std::vector<Part> parts;
    for (int64_t part = e * layout.parts_each; part < (e + 1) * layout.parts_each; ++part) parts.push_back(part_of(layout, tensors, part));
    const std::vector<at::Tensor> outputs = multiply(parts, input);
    output.copy_(outputs.size() == 1 ? outputs[0] : at::cat(outputs, 1));
  });
  return y;
}

std::vector<at::Tensor> Gptq::multiply(std::span<const Part> parts, const at::Tensor& x) const {
  const int64_t m = x.size(0), columns = parts.front().weight.cols;
  std::vector<at::Tensor> inputs, outputs;
  if (!x.is_cpu()) {
    const at::Tensor plain = with_columns(x, columns).contiguous();
    for (const Part& part : parts) outputs.push_back(multiply_on_device(part, plain));
    return outputs;
  }
  const Kernels& kernel = kernels();
  const auto is_narrow = [&](const Weight& w) {
    return kernel.multiply_bf16 && x.scalar_type() == at::kBFloat16 && w.bits == 4 && w.group % 8 == 0;
  };
  at::Tensor plain[2];  // x in bfloat16, or in float32
  std::vector<int64_t> starts{0};
  for (const Part& part : parts) {
    const bool narrow = is_narrow(part.weight);
    at::Tensor& input = plain[narrow ? 0 : 1];
    if (!input.defined()) input = with_columns(narrow ? x : x.to(at::kFloat), columns).contiguous();
    inputs.push_back(part.order.defined() ? input.index_select(1, part.order) : input);
    outputs.push_back(at::empty({m, part.weight.rows}, at::kFloat));
    starts.push_back(starts.back() + part.weight.rows);
  }
  // The rows of all weights in one row: a thread's share may cross from one weight into the next.
  parallel_for(starts.back(), kMultiplyRows, [&](int64_t from, int64_t to) {
    for (size_t i = 0; i < parts.size(); ++i) {
      const int64_t first = std::max(from, starts[i]) - starts[i], last = std::min(to, starts[i + 1]) - starts[i];
      if (first >= last) continue;
      auto* y = outputs[i].mutable_data_ptr<float>();
      if (const void* input = inputs[i].const_data_ptr(); is_narrow(parts[i].weight))
        kernel.multiply_bf16(parts[i].weight, static_cast<const uint16_t*>(input), m, first, last, y);
      else
        kernel.multiply(parts[i].weight, static_cast<const float*>(input), m, first, last, y);
    }
  });
  for (auto& y : outputs) y = y.to(x.scalar_type());
  return outputs;
}

}  // namespace tenon::gptq
