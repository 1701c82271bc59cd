#include "tenon/nn/experts.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scatter_add.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "tenon/error.h"
#include "tenon/nn/linear.h"

namespace tenon::nn {

Routing route(const RouterArgs& args) {
  const at::Tensor probabilities = at::softmax(args.logits, -1, at::kFloat);
  auto [weights, experts] = at::topk(probabilities, args.top_k, -1);
  if (args.normalize) weights = weights / weights.sum(-1, /*keepdim=*/true);
  return {.weights = weights, .experts = experts};
}

at::Tensor grouped_linear(const at::Tensor& x, const at::Tensor& offsets, const at::Tensor& weight) {
  // One node of autograd gives all experts' weights: their gradients become one tensor once.
  const std::vector<at::Tensor> weights = weight.unbind(0);
  std::vector<at::Tensor> parts;
  for_each_expert(offsets, [&](int64_t e, int64_t first, int64_t rows) {
    parts.push_back(nn::linear(x.narrow(0, first, rows), weights[static_cast<size_t>(e)]));
  });
  if (parts.empty()) return x.new_empty({0, weight.size(1)});
  return parts.size() == 1 ? parts[0] : at::cat(parts);
}

at::Tensor mix_experts(const at::Tensor& x, const Routing& routing, int64_t count, const ExpertsFn& experts) {
  const int64_t tokens = x.size(0), top_k = routing.experts.size(1);
  const at::Tensor flat = routing.experts.reshape({-1});
  const at::Tensor order = at::argsort(flat, /*stable=*/true, /*dim=*/0);
  const at::Tensor counts = at::bincount(flat.cpu(), {}, count);
  if (counts.numel() != count) fail(ErrorCode::Internal, "the router names an expert beyond the ", count, " of the model");
  const at::Tensor offsets = at::cat({at::zeros({1}, at::kLong), counts.cumsum(0)});
  const at::Tensor y = experts(x.index_select(0, order.floor_divide(top_k)), offsets);
  // Back into the order of tokens, where a token's outputs lie together.
  at::Tensor back = at::empty_like(order);
  back.index_copy_(0, order, at::arange(order.numel(), order.options()));
  const at::Tensor weighted = y.index_select(0, back).view({tokens, top_k, y.size(-1)}) * routing.weights.unsqueeze(-1);
  return weighted.sum(1).to(x.scalar_type());
}

namespace {
constexpr const char *kTokens = "router.tokens", *kProbability = "router.probability", *kRows = "router.rows";

void add(State& state, const char* name, const at::Tensor& value) {
  at::Tensor& sum = state.extras[name];
  sum = sum.defined() ? sum.to(value.device()) + value : value;
}
}  // namespace

void count_routed(State& state, const at::Tensor& logits, const Routing& routing) {
  const int64_t rows = logits.size(0), count = logits.size(1), top_k = routing.experts.size(1);
  const at::Tensor mask =
      state.segments.defined() ? (state.segments != 0).reshape({-1}).to(at::kFloat) : at::ones({rows}, logits.options().dtype(at::kFloat));
  const at::Tensor tokens = at::zeros({count}, mask.options());
  add(state, kTokens, at::scatter_add(tokens, 0, routing.experts.reshape({-1}), mask.repeat_interleave(top_k)));
  add(state, kProbability, (at::softmax(logits, -1).to(at::kFloat) * mask.unsqueeze(-1)).sum(0));
  add(state, kRows, mask.sum());
}

at::Tensor balance_loss(const State& state) {
  const auto tokens = state.extras.find(kTokens);
  if (tokens == state.extras.end()) return {};
  const at::Tensor& rows = state.extras.at(kRows);
  const at::Tensor share = (tokens->second / rows).detach(), probability = state.extras.at(kProbability) / rows.detach();
  return (share * probability).sum() * tokens->second.size(0);
}

}  // namespace tenon::nn
