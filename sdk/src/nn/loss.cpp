#include "tenon/nn/loss.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/tanh.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "tenon/error.h"

namespace tenon::nn {

namespace {
// Float32 copies of the logits exist for one panel at a time.
constexpr int64_t kPanelElements = int64_t{1} << 21;

template <class Body>
void over_panels(int64_t rows, int64_t width, Body&& body) {
  const int64_t panel = std::max<int64_t>(1, kPanelElements / std::max<int64_t>(1, width));
  for (int64_t first = 0; first < rows; first += panel) body(first, std::min(panel, rows - first));
}

struct LogprobsOfLogits : torch::autograd::Function<LogprobsOfLogits> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& logits, const at::Tensor& targets) {
    const at::Tensor picked = logits.gather(1, targets.unsqueeze(1)).squeeze(1).to(at::kFloat);
    at::Tensor totals = at::empty({logits.size(0)}, picked.options());
    over_panels(logits.size(0), logits.size(1), [&](int64_t first, int64_t rows) {
      totals.narrow(0, first, rows).copy_(at::logsumexp(logits.narrow(0, first, rows).to(at::kFloat), {1}));
    });
    if (context) context->save_for_backward({logits, targets, totals});
    return picked - totals;
  }
  // d/dlogits of sum(g * (logit[target] - logsumexp)) = g * (onehot - softmax), written over the logits: nothing else needs them.
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    at::Tensor logits = saved[0];
    const at::Tensor &targets = saved[1], &totals = saved[2], g = grads[0].to(at::kFloat).unsqueeze(1);
    over_panels(logits.size(0), logits.size(1), [&](int64_t first, int64_t rows) {
      at::Tensor panel = logits.narrow(0, first, rows);
      const at::Tensor weight = g.narrow(0, first, rows);
      at::Tensor d = (panel.to(at::kFloat) - totals.narrow(0, first, rows).unsqueeze(1)).exp_().mul_(-weight);
      d.scatter_add_(1, targets.narrow(0, first, rows).unsqueeze(1), weight);
      panel.copy_(d);
    });
    return {logits, at::Tensor()};
  }
};

void check_targets(const at::Tensor& targets, int64_t vocab) {
  if (!targets.is_cpu()) return;
  const at::Tensor flat = targets.contiguous();
  const int64_t* t = flat.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < flat.numel(); ++i)
    if (t[i] < 0 || t[i] >= vocab) fail(ErrorCode::Data, "target token ", t[i], " is outside the vocabulary of ", vocab);
}
}  // namespace

at::Tensor soft_cap(const at::Tensor& x, double cap) { return cap > 0 ? at::tanh(x / cap) * cap : x; }

at::Tensor token_logprobs(const LossArgs& args) {
  at::Tensor logits = args.head->linear(args.hidden);
  if (args.logit_scale != 1) logits = logits * args.logit_scale;
  logits = soft_cap(logits, args.logit_softcap);
  check_targets(args.targets, logits.size(1));
  if (at::GradMode::is_enabled() && logits.requires_grad()) return LogprobsOfLogits::apply(logits, args.targets);
  return LogprobsOfLogits::forward(nullptr, logits, args.targets);
}

}  // namespace tenon::nn
