#include "tenon/nn/activation.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/threshold_backward.h>
#include <torch/csrc/autograd/custom_function.h>

namespace tenon::nn {

namespace {
struct Entry {
  const char* name;
  at::Tensor (*forward)(const at::Tensor& x);
  at::Tensor (*backward)(const at::Tensor& dy, const at::Tensor& x);
};

at::Tensor silu(const at::Tensor& x) { return at::silu(x); }
at::Tensor silu_back(const at::Tensor& dy, const at::Tensor& x) { return at::silu_backward(dy, x); }
at::Tensor gelu(const at::Tensor& x) { return at::gelu(x); }
at::Tensor gelu_back(const at::Tensor& dy, const at::Tensor& x) { return at::gelu_backward(dy, x); }
at::Tensor gelu_tanh(const at::Tensor& x) { return at::gelu(x, "tanh"); }
at::Tensor gelu_tanh_back(const at::Tensor& dy, const at::Tensor& x) { return at::gelu_backward(dy, x, "tanh"); }
at::Tensor relu(const at::Tensor& x) { return at::relu(x); }
at::Tensor relu_back(const at::Tensor& dy, const at::Tensor& x) { return at::threshold_backward(dy, x, 0); }
at::Tensor relu2(const at::Tensor& x) { return at::relu(x).square_(); }
at::Tensor relu2_back(const at::Tensor& dy, const at::Tensor& x) { return dy * at::relu(x).mul_(2); }
at::Tensor quick_gelu(const at::Tensor& x) { return at::sigmoid(x * 1.702).mul_(x); }
at::Tensor quick_gelu_back(const at::Tensor& dy, const at::Tensor& x) {
  const at::Tensor s = at::sigmoid(x * 1.702);
  return dy * (s + s * (1 - s) * x * 1.702);
}

constexpr Entry kFunctions[] = {
    {"silu", silu, silu_back},
    {"swish", silu, silu_back},
    {"gelu", gelu, gelu_back},
    {"gelu_python", gelu, gelu_back},
    {"gelu_new", gelu_tanh, gelu_tanh_back},
    {"gelu_fast", gelu_tanh, gelu_tanh_back},
    {"gelu_pytorch_tanh", gelu_tanh, gelu_tanh_back},
    {"gelu_python_tanh", gelu_tanh, gelu_tanh_back},
    {"quick_gelu", quick_gelu, quick_gelu_back},
    {"relu", relu, relu_back},
    {"relu2", relu2, relu2_back},
};

const Entry* find(const std::string& name) {
  for (const Entry& f : kFunctions)
    if (name == f.name) return &f;
  return nullptr;
}

struct Gated : torch::autograd::Function<Gated> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& gate, const at::Tensor& up, int64_t function) {
    context->save_for_backward({gate, up});
    context->saved_data["function"] = function;
    return kFunctions[function].forward(gate).mul_(up);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &gate = saved[0], &up = saved[1], &dy = grads[0];
    const Entry& f = kFunctions[context->saved_data["function"].toInt()];
    at::Tensor d_gate, d_up;
    if (context->needs_input_grad(0)) d_gate = f.backward(dy * up, gate);
    if (context->needs_input_grad(1)) d_up = f.forward(gate).mul_(dy);
    return {d_gate, d_up, at::Tensor()};
  }
};

struct Alone : torch::autograd::Function<Alone> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, int64_t function) {
    context->save_for_backward({x});
    context->saved_data["function"] = function;
    return kFunctions[function].forward(x);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    return {kFunctions[context->saved_data["function"].toInt()].backward(grads[0], context->get_saved_variables()[0]), at::Tensor()};
  }
};
}  // namespace

bool has_activation(const std::string& name) { return find(name) != nullptr; }

std::vector<std::string> activation_names() {
  std::vector<std::string> names;
  for (const Entry& f : kFunctions) names.emplace_back(f.name);
  return names;
}

at::Tensor activate(const ActivationArgs& args) {
  const Entry* f = args.name ? find(*args.name) : nullptr;
  if (!f) fail(ErrorCode::Internal, "unknown activation '", args.name ? *args.name : "", "'");
  const bool records = at::GradMode::is_enabled() && (args.gate.requires_grad() || (args.up.defined() && args.up.requires_grad()));
  if (!args.up.defined()) return records ? Alone::apply(args.gate, f - kFunctions) : f->forward(args.gate);
  if (records) return Gated::apply(args.gate, args.up, f - kFunctions);
  return f->forward(args.gate).mul_(args.up);
}

}  // namespace tenon::nn
