#include "train/tape.h"

#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <mutex>

namespace tenon::host {

namespace {

std::vector<at::Generator> generators_of(at::Device device) {
  std::vector<at::Generator> generators{at::globalContext().defaultGenerator(at::kCPU)};
  if (device.is_cuda()) generators.push_back(at::globalContext().defaultGenerator(device));
  return generators;
}

std::vector<at::Tensor> generator_states(at::Device device) {
  std::vector<at::Tensor> states;
  for (at::Generator& generator : generators_of(device)) {
    std::lock_guard lock(generator.mutex());
    states.push_back(generator.get_state());
  }
  return states;
}

void set_generator_states(at::Device device, const std::vector<at::Tensor>& states) {
  std::vector<at::Generator> generators = generators_of(device);
  for (size_t i = 0; i < generators.size() && i < states.size(); ++i) {
    std::lock_guard lock(generators[i].mutex());
    generators[i].set_state(states[i]);
  }
}

}  // namespace

RecomputeList::RecomputeList(const std::vector<int64_t>& blocks) {
  for (int64_t block : blocks) {
    if (static_cast<size_t>(block) >= flags_.size()) flags_.resize(static_cast<size_t>(block) + 1);
    flags_[static_cast<size_t>(block)] = true;
  }
}

// Replaces what requires gradients in the state by leaves. A recomputed block (`before`: what it got) ran without a graph: whether what it made carries
// gradients shows only when it runs again, so it is taken to.
std::vector<Tape::Link> Tape::cut(State& state, const State* before) const {
  std::vector<Link> links;
  auto link = [&](const std::string& name, at::Tensor& value, bool carries) {
    if (!carries) return;
    at::Tensor leaf = value.detach().requires_grad_(true);
    links.push_back({name, before ? at::Tensor() : value, leaf});
    value = leaf;
  };
  auto is_new = [&](const std::string& name, const at::Tensor& value) {
    auto old = before->extras.find(name);
    return old == before->extras.end() || !old->second.is_same(value);
  };
  link("", state.hidden, before || state.hidden.requires_grad());
  for (auto& [name, value] : state.extras)
    if (value.defined() && value.is_floating_point()) link(name, value, value.requires_grad() || (before && is_new(name, value)));
  return links;
}

void Tape::run(Part& part, State& state) {
  if (!part.is_recomputed) {
    model_.run_block(part.stack, part.block, state);
    part.out = cut(state, nullptr);
    return;
  }
  part.before = state;
  part.generators = generator_states(state.hidden.device());
  {
    at::NoGradGuard no_grad;
    model_.run_block(part.stack, part.block, state);
  }
  part.out = cut(state, &part.before);
}

at::Tensor Tape::forward(const Batch& batch) {
  const bool records = at::GradMode::is_enabled();
  State state = model_.begin(batch, nullptr);
  if (records) {
    parts_.emplace_back();
    parts_.back().out = cut(state, nullptr);
  }
  const auto& stacks = model_.blueprint().stacks;
  int64_t flat = 0;
  for (size_t s = 0; s < stacks.size(); ++s) {
    for (int64_t i = 0; i < stacks[s].count; ++i, ++flat) {
      if (!records) {
        model_.run_block(static_cast<int>(s), i, state);
        continue;
      }
      Part part;
      part.stack = static_cast<int>(s);
      part.block = i;
      part.is_recomputed = recompute_.contains(flat);
      run(part, state);
      parts_.push_back(std::move(part));
    }
  }
  const at::Tensor hidden = model_.finish(state);
  if (records) auxiliary_loss_ = model_.auxiliary_loss(state);
  return hidden;
}

void Tape::backward() {
  for (; !parts_.empty(); parts_.pop_back()) {
    Part& part = parts_.back();
    torch::autograd::variable_list roots, grads;
    if (part.is_recomputed) {
      bool is_needed = false;
      for (const Link& link : part.out) is_needed |= link.leaf.grad().defined();
      if (!is_needed) continue;
      State state = std::move(part.before);
      const at::Device device = state.hidden.device();
      const std::vector<at::Tensor> current = generator_states(device);
      set_generator_states(device, part.generators);
      {
        at::AutoGradMode enable(true);
        model_.run_block(part.stack, part.block, state);
      }
      set_generator_states(device, current);
      for (Link& link : part.out) link.made = link.name.empty() ? state.hidden : state.extras[link.name];
    }
    for (Link& link : part.out) {
      if (!link.made.requires_grad() || !link.leaf.grad().defined()) continue;
      roots.push_back(std::move(link.made));
      grads.push_back(link.leaf.grad());
      link.leaf.mutable_grad() = at::Tensor();
    }
    if (!roots.empty()) torch::autograd::backward(roots, grads);
  }
}

}  // namespace tenon::host
