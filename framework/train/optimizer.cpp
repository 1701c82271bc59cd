#include "train/optimizer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <map>
#include <regex>
#include <tuple>

namespace tenon::host {

namespace {

using Group = std::tuple<int, int, at::ScalarType>;  // device type, index, dtype: what fused kernels want alike

Group group_of(const at::Tensor& t) { return {static_cast<int>(t.device().type()), t.device().index(), t.scalar_type()}; }

std::map<Group, std::vector<at::Tensor>> grouped_gradients(const std::vector<AdapterParameter>& parameters) {
  std::map<Group, std::vector<at::Tensor>> groups;
  for (const auto& parameter : parameters)
    if (const at::Tensor& grad = parameter.tensor.grad(); grad.defined()) groups[group_of(grad)].push_back(grad);
  return groups;
}

}  // namespace

bool is_decayed(const std::string& name) {
  static const std::regex spared("bias|layernorm|rmsnorm|(^|\\.)norm($|\\.)|_norm($|\\.)");
  std::string lower = name;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return !std::regex_search(lower, spared);
}

double gradient_norm(const std::vector<AdapterParameter>& parameters) {
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> norms;
  for (const auto& [group, grads] : grouped_gradients(parameters))
    for (at::Tensor& norm : at::_foreach_norm(grads, 2)) norms.push_back(norm.to(at::kCPU, at::kFloat));
  return norms.empty() ? 0 : at::linalg_vector_norm(at::stack(norms), 2).item<double>();
}

void scale_gradients(const std::vector<AdapterParameter>& parameters, double factor) {
  at::NoGradGuard no_grad;
  for (const auto& [group, grads] : grouped_gradients(parameters)) at::_foreach_mul_(grads, factor);
}

void clip_gradients(const std::vector<AdapterParameter>& parameters, double norm, double max_norm) {
  if (const double factor = max_norm / (norm + 1e-6); factor < 1) scale_gradients(parameters, factor);
}

void clear_gradients(const std::vector<AdapterParameter>& parameters) {
  for (const auto& parameter : parameters) parameter.tensor.mutable_grad() = at::Tensor();
}

AdamW::AdamW(std::vector<AdapterParameter> parameters, const TrainSection& train)
    : parameters_(std::move(parameters)),
      beta1_(train.adam_beta1),
      beta2_(train.adam_beta2),
      epsilon_(train.adam_epsilon),
      weight_decay_(train.weight_decay) {
  for (const auto& parameter : parameters_) {
    const at::Tensor leaf = parameter.tensor.detach();
    state_.push_back(
        {at::zeros_like(leaf), at::zeros_like(leaf), at::zeros({}, leaf.options().dtype(at::kFloat)), is_decayed(parameter.name)});
  }
}

std::vector<NamedTensor> AdamW::tensors() const {
  std::vector<NamedTensor> all;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    // Two adapters may have parameters of one name.
    const std::string name = concat(i, ".", parameters_[i].name);
    all.push_back({name, parameters_[i].tensor.detach()});
    all.push_back({name + ".exp_avg", state_[i].first});
    all.push_back({name + ".exp_avg_sq", state_[i].second});
    all.push_back({name + ".step", state_[i].step});
  }
  return all;
}

void AdamW::step(double learning_rate) {
  at::NoGradGuard no_grad;
  struct Lists {
    std::vector<at::Tensor> leaves, grads, first, second, steps;
  };
  std::map<std::pair<Group, bool>, Lists> groups;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const at::Tensor& leaf = parameters_[i].tensor;
    if (!leaf.grad().defined()) continue;
    Slot& state = state_[i];
    state.step.add_(1);  // the kernel reads the number of the step it is doing
    Lists& lists = groups[{group_of(leaf), state.decays}];
    lists.leaves.push_back(leaf);
    lists.grads.push_back(leaf.grad());
    lists.first.push_back(state.first);
    lists.second.push_back(state.second);
    lists.steps.push_back(state.step);
  }
  for (auto& [key, lists] : groups)
    at::_fused_adamw_(lists.leaves, lists.grads, lists.first, lists.second, {}, lists.steps, learning_rate, beta1_, beta2_,
                      key.second ? weight_decay_ : 0.0, epsilon_,
                      /*amsgrad=*/false, /*maximize=*/false);
}

}  // namespace tenon::host
