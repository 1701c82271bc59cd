#include "tenon/quantizer.h"

#include <ATen/ops/_unique2.h>
#include <ATen/ops/_unsafe_view.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "nn/float_product.h"
#include "tenon/error.h"
#include "tenon/nn/experts.h"
#include "tenon/nn/linear.h"

namespace tenon {

namespace {
constexpr int64_t kPanelBytes = int64_t{64} << 20;

[[noreturn]] void not_offered(const Quantizer& q, const char* what) {
  fail(ErrorCode::Internal, "quantizer format '", q.format(), "' does not offer ", what);
}

nn::WeightRows rows_of(const Quantizer& q, const SlotSpec& slot, const Tensors& tensors, at::ScalarType dtype) {
  return [&q, &slot, &tensors, dtype](int64_t first, int64_t last) { return q.dequantize(slot, tensors, dtype, first, last); };
}
}  // namespace

Support Quantizer::supports(const SlotSpec& slot) const {
  if (slot.kind == SlotKind::Linear && slot.count == 1) return {};
  return Support::no(slot.kind == SlotKind::Embedding ? "embeddings are not quantized by this quantizer"
                                                      : "expert weights are not quantized by this quantizer");
}

Tensors Quantizer::begin(const SlotSpec&, at::Device) const { not_offered(*this, "panels"); }
void Quantizer::quantize_rows(const SlotSpec&, const at::Tensor&, int64_t, Tensors&) const { not_offered(*this, "panels"); }
Tensors Quantizer::finish(const SlotSpec&, Tensors) const { not_offered(*this, "panels"); }

at::Tensor Quantizer::linear(const SlotSpec& slot, const at::Tensor& x, const Tensors& tensors) const {
  if (!nn::is_faster_in_float(x) || x.numel() == 0) return at::linear(x, dequantize(slot, tensors, x.scalar_type()));
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = slot.out;
  return at::_unsafe_view(nn::float_linear(x.reshape({-1, slot.in}), slot.out, rows_of(*this, slot, tensors, x.scalar_type())), shape);
}

std::vector<at::Tensor> Quantizer::linear_many(std::span<const Operand> weights, const at::Tensor& x) const {
  std::vector<at::Tensor> outputs;
  outputs.reserve(weights.size());
  for (const Operand& w : weights) outputs.push_back(linear(*w.slot, x, *w.tensors));
  return outputs;
}

at::Tensor Quantizer::grad_input(const SlotSpec& slot, const at::Tensor& dy, const Tensors& tensors) const {
  if (nn::is_faster_in_float(dy) && dy.numel() > 0) {
    std::vector<int64_t> shape = dy.sizes().vec();
    shape.back() = slot.in;
    return nn::float_times(dy.reshape({-1, slot.out}), slot.in, rows_of(*this, slot, tensors, dy.scalar_type())).view(shape);
  }
  const int64_t row_bytes = slot.in * static_cast<int64_t>(dy.element_size());
  const int64_t panel = std::max<int64_t>(1, kPanelBytes / std::max<int64_t>(1, row_bytes));
  if (panel >= slot.out) return at::matmul(dy, dequantize(slot, tensors, dy.scalar_type()));
  // dy . W is the sum over row panels of dy[:, panel] . W[panel, :].
  at::Tensor dx;
  for (int64_t first = 0; first < slot.out; first += panel) {
    const int64_t last = std::min(slot.out, first + panel);
    at::Tensor part = at::matmul(dy.narrow(-1, first, last - first), dequantize(slot, tensors, dy.scalar_type(), first, last));
    dx = dx.defined() ? dx.add_(part) : part;
  }
  return dx;
}

at::Tensor Quantizer::rows(const SlotSpec& slot, const at::Tensor& ids, const Tensors& tensors, at::ScalarType dtype) const {
  auto [distinct, inverse, counts] = at::_unique2(ids.reshape({-1}), /*sorted=*/true, /*return_inverse=*/true, /*return_counts=*/false);
  at::Tensor table = at::empty({distinct.numel(), slot.in}, ids.options().dtype(dtype));
  at::Tensor on_cpu = distinct.cpu();
  const int64_t* id = on_cpu.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < on_cpu.numel(); ++i) {
    if (id[i] < 0 || id[i] >= slot.out) fail(ErrorCode::Data, "token id ", id[i], " is outside the vocabulary of ", slot.out);
    table[i].copy_(dequantize(slot, tensors, dtype, id[i], id[i] + 1)[0]);
  }
  std::vector<int64_t> shape = ids.sizes().vec();
  shape.push_back(slot.in);
  return table.index_select(0, inverse).view(shape);
}

at::Tensor Quantizer::grouped(const SlotSpec& slot, const at::Tensor& x, const at::Tensor& offsets, const Tensors& tensors) const {
  at::Tensor y = at::empty({x.size(0), slot.out}, x.options());
  nn::for_each_expert(offsets, [&](int64_t e, int64_t first, int64_t tokens) {
    const at::Tensor weight = dequantize(slot, tensors, x.scalar_type(), e, e + 1)[0];
    y.narrow(0, first, tokens).copy_(nn::linear(x.narrow(0, first, tokens), weight));
  });
  return y;
}

std::unique_ptr<Observer> Quantizer::make_observer(const SlotSpec&) const { return nullptr; }
int64_t Quantizer::calibration_bytes(const SlotSpec&) const { return 0; }
std::optional<Value> Quantizer::recognise(const Value&, const TensorSource&) const { return std::nullopt; }
std::vector<std::string> Quantizer::locate(const SlotSpec&, const TensorSource&) const { return {}; }
Tensors Quantizer::unpack(const SlotSpec&, const TensorSource&) const { not_offered(*this, "reading of packed files"); }
std::vector<NamedTensor> Quantizer::pack(const SlotSpec&, const Tensors&) const { not_offered(*this, "writing of packed files"); }
Value Quantizer::quantization_config(const std::vector<std::string>&, at::ScalarType) const {
  not_offered(*this, "writing of packed files");
}

}  // namespace tenon
