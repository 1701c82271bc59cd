#include "model/quantized_filler.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "plugins/registry.h"
#include "tenon/error.h"
#include "tenon/nn/experts.h"
#include "tenon/nn/linear.h"

namespace tenon::host {

namespace {

// Carries the filler through the graph; the model outlives every graph made of it.
struct FillerHolder : torch::CustomClassHolder {
  explicit FillerHolder(const QuantizedFiller* f) : filler(f) {}
  const QuantizedFiller* filler;
};

at::Tensor multiply(const QuantizedFiller& f, const at::Tensor& x) {
  at::Tensor y;
  call_plugin(f.quantizer_name(), "linear", f.spec().path, [&] { y = f.quantizer().linear(f.spec(), x, f.tensors()); });
  return y;
}

struct QuantizedLinear : torch::autograd::Function<QuantizedLinear> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, const QuantizedFiller* filler) {
    ctx->saved_data["filler"] = at::IValue::make_capsule(c10::make_intrusive<FillerHolder>(filler));
    return multiply(*filler, x);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, torch::autograd::variable_list grads) {
    auto holder = c10::static_intrusive_pointer_cast<FillerHolder>(ctx->saved_data["filler"].toCapsule());
    const QuantizedFiller& f = *holder->filler;
    at::Tensor dx;
    call_plugin(f.quantizer_name(), "grad_input", f.spec().path,
                [&] { dx = f.quantizer().grad_input(f.spec(), grads[0].contiguous(), f.tensors()); });
    return {dx, {}};
  }
};

at::Tensor multiply_grouped(const QuantizedFiller& f, const at::Tensor& x, const at::Tensor& offsets) {
  at::Tensor y;
  call_plugin(f.quantizer_name(), "grouped", f.spec().path, [&] { y = f.quantizer().grouped(f.spec(), x, offsets, f.tensors()); });
  return y;
}

// Backward dequantizes one expert after another, those with tokens alone.
struct QuantizedGrouped : torch::autograd::Function<QuantizedGrouped> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, const at::Tensor& offsets,
                            const QuantizedFiller* filler) {
    ctx->saved_data["filler"] = at::IValue::make_capsule(c10::make_intrusive<FillerHolder>(filler));
    ctx->saved_data["offsets"] = offsets;
    return multiply_grouped(*filler, x, offsets);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, torch::autograd::variable_list grads) {
    auto holder = c10::static_intrusive_pointer_cast<FillerHolder>(ctx->saved_data["filler"].toCapsule());
    const QuantizedFiller& f = *holder->filler;
    const at::Tensor offsets = ctx->saved_data["offsets"].toTensor();
    const at::Tensor& dy = grads[0];
    at::Tensor dx = at::empty({dy.size(0), f.spec().in}, dy.options());
    nn::for_each_expert(offsets, [&](int64_t e, int64_t first, int64_t rows) {
      dx.narrow(0, first, rows).copy_(nn::matmul(dy.narrow(0, first, rows), f.dense_rows(dy.scalar_type(), e, e + 1)[0]));
    });
    return {dx, {}, {}};
  }
};

}  // namespace

QuantizedFiller::QuantizedFiller(SlotSpec spec, std::string name, std::shared_ptr<const Quantizer> quantizer, Tensors tensors,
                                 at::Tensor bias)
    : spec_(std::move(spec)),
      name_(std::move(name)),
      quantizer_(std::move(quantizer)),
      tensors_(std::move(tensors)),
      bias_(std::move(bias)) {}

at::Tensor QuantizedFiller::linear(const at::Tensor& x) {
  const bool record = at::GradMode::is_enabled() && x.requires_grad();
  at::Tensor y;
  if (record)
    y = QuantizedLinear::apply(x, this);
  else {
    at::NoGradGuard no_grad;
    y = multiply(*this, x);
  }
  return bias_.defined() ? at::add(y, bias_.to(y.scalar_type())) : y;
}

std::vector<at::Tensor> QuantizedFiller::linear_many(std::span<Filler* const> group, const at::Tensor& x) {
  if (at::GradMode::is_enabled() && x.requires_grad()) return Filler::linear_many(group, x);
  std::vector<Quantizer::Operand> operands;
  operands.reserve(group.size());
  for (Filler* filler : group) {
    auto* other = dynamic_cast<QuantizedFiller*>(filler);
    if (!other || other->quantizer_ != quantizer_) return Filler::linear_many(group, x);
    operands.push_back({&other->spec_, &other->tensors_});
  }
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> outputs;
  call_plugin(name_, "linear_many", spec_.path, [&] { outputs = quantizer_->linear_many(operands, x); });
  for (size_t i = 0; i < group.size(); ++i)
    if (at::Tensor bias = group[i]->bias(); bias.defined()) outputs[i] = at::add(outputs[i], bias.to(outputs[i].scalar_type()));
  return outputs;
}

at::Tensor QuantizedFiller::grouped(const at::Tensor& x, const at::Tensor& offsets) {
  if (bias_.defined()) fail(ErrorCode::Internal, "experts with a bias are not served");
  if (at::GradMode::is_enabled() && x.requires_grad()) return QuantizedGrouped::apply(x, offsets, this);
  at::NoGradGuard no_grad;
  return multiply_grouped(*this, x, offsets);
}

at::Tensor QuantizedFiller::rows(const at::Tensor& ids, at::ScalarType dtype) {
  at::NoGradGuard no_grad;
  at::Tensor result;
  call_plugin(name_, "rows", spec_.path, [&] { result = quantizer_->rows(spec_, ids, tensors_, dtype); });
  return result;
}

at::Tensor QuantizedFiller::dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const {
  at::NoGradGuard no_grad;
  at::Tensor result;
  call_plugin(name_, "dequantize", spec_.path, [&] { result = quantizer_->dequantize(spec_, tensors_, dtype, first, last); });
  return result;
}

}  // namespace tenon::host
