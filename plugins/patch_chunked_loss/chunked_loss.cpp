#include "chunked_loss.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <mutex>
#include <vector>

namespace tenon::chunked_loss {

namespace {

// Dropout inside the head draws the same numbers again.
class DrawAgain {
 public:
  explicit DrawAgain(const at::Tensor& state) : generator_(at::detail::getDefaultCPUGenerator()) {
    const std::lock_guard lock(generator_.mutex());
    before_ = generator_.get_state();
    generator_.set_state(state);
  }
  DrawAgain(const DrawAgain&) = delete;
  DrawAgain& operator=(const DrawAgain&) = delete;
  ~DrawAgain() {
    const std::lock_guard lock(generator_.mutex());
    generator_.set_state(before_);
  }
  static at::Tensor state() {
    at::Generator generator = at::detail::getDefaultCPUGenerator();
    const std::lock_guard lock(generator.mutex());
    return generator.get_state();
  }

 private:
  at::Generator generator_;
  at::Tensor before_;
};

LossArgs chunk_of(const LossArgs& args, int64_t first, int64_t rows) {
  LossArgs part = args;
  part.hidden = args.hidden.narrow(0, first, rows), part.targets = args.targets.narrow(0, first, rows);
  return part;
}

template <class Body>
void over_chunks(int64_t rows, int64_t chunk, const Body& body) {
  for (int64_t first = 0; first < rows; first += chunk) body(first, std::min(chunk, rows - first));
}

at::Tensor forward_chunks(const LossArgs& args, const LossFn& whole, int64_t chunk) {
  std::vector<at::Tensor> parts;
  over_chunks(args.hidden.size(0), chunk, [&](int64_t first, int64_t rows) { parts.push_back(whole(chunk_of(args, first, rows))); });
  return at::cat(parts);
}

// What the backward pass needs again. The model outlives every graph made of it, and so do its seams.
struct Work : torch::CustomClassHolder {
  LossArgs args;
  LossFn whole;
  int64_t chunk = 0;
  at::Tensor generator;
};

struct Chunked : torch::autograd::Function<Chunked> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& hidden, const c10::intrusive_ptr<Work>& work) {
    work->generator = DrawAgain::state();
    const at::Tensor logprobs = forward_chunks(work->args, work->whole, work->chunk);
    ctx->save_for_backward({hidden});
    work->args.hidden = at::Tensor();  // held by the graph, so that changes in place are noticed
    ctx->saved_data["work"] = at::IValue::make_capsule(work);
    return logprobs;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, torch::autograd::variable_list grads) {
    const auto work = c10::static_intrusive_pointer_cast<Work>(ctx->saved_data["work"].toCapsule());
    LossArgs args = work->args;
    args.hidden = ctx->get_saved_variables()[0].detach();
    at::Tensor d_hidden = at::empty_like(args.hidden);
    const DrawAgain draw_again(work->generator);
    over_chunks(args.hidden.size(0), work->chunk, [&](int64_t first, int64_t rows) {
      const at::AutoGradMode with_grad(true);
      LossArgs part = chunk_of(args, first, rows);
      part.hidden = part.hidden.detach().requires_grad_(true);
      // A trainable head gathers its own gradient here.
      torch::autograd::backward({work->whole(part)}, {grads[0].narrow(0, first, rows)});
      d_hidden.narrow(0, first, rows).copy_(part.hidden.grad());
    });
    return {d_hidden, at::Tensor()};
  }
};

}  // namespace

OptionTable option_table() {
  return tenon::option_table<Options>({
      option(&Options::chunk_size, "chunk_size", "Tokens whose logits are in memory at a time.", range(1)),
  });
}

bool ChunkedLoss::on_blueprint(Blueprint& blueprint) {
  blueprint.loss_chunk_tokens = options_.chunk_size;
  return true;
}

bool ChunkedLoss::on_seams(Seams& seams) {
  if (!seams.loss.is_set()) return false;
  seams.loss.wrap("chunked_loss",
                  [chunk = options_.chunk_size](const LossArgs& args, const LossFn& next) { return in_chunks(args, next, chunk); });
  return true;
}

at::Tensor in_chunks(const LossArgs& args, const LossFn& whole, int64_t chunk) {
  if (args.hidden.size(0) <= chunk) return whole(args);
  if (!at::GradMode::is_enabled()) return forward_chunks(args, whole, chunk);
  if (!args.hidden.requires_grad()) return whole(args);  // a head that trains alone: the graph begins there
  auto work = c10::make_intrusive<Work>();
  work->args = args, work->whole = whole, work->chunk = chunk;
  return Chunked::apply(args.hidden, work);
}

}  // namespace tenon::chunked_loss
