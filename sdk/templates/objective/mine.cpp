// Focal loss: each token counts (1 - p)^gamma of its log-likelihood, so that what the model knows well stops pulling.
#include <ATen/TensorOperators.h>

#include "tenon/plugin.h"

namespace {

using namespace tenon;

struct MineOptions {
  double gamma = 2;
};

class Mine final : public Objective {
 public:
  explicit Mine(const MineOptions& options) : gamma_(options.gamma) {}

  // The host adds up loss_sum and weight over a whole step, divides, and runs the backward pass.
  ObjectiveResult step(ObjectiveContext& context, const TrainBatch& batch) override {
    const at::Tensor logprobs = context.token_logprobs(batch).logprobs;
    // Not down to 0, where a power below 1 has no slope.
    const at::Tensor focus = (1 - logprobs.exp()).clamp_min(1e-6).pow(gamma_);
    return {.loss_sum = -(focus * logprobs).sum(),
            .weight = static_cast<double>(logprobs.numel()),
            .metrics = {{"nll", -logprobs.detach().sum().item<double>()}}};
  }

 private:
  double gamma_;
};

}  // namespace

TENON_PLUGIN(.id = "org.example.mine", .version = "0.1.0", .license = "Apache-2.0", .provides = {"objective:mine"})

TENON_REGISTER(tenon::Registrar& registrar) {
  registrar.objective<MineOptions, Mine>(
      "mine", "Focal loss.",
      option_table<MineOptions>({option(&MineOptions::gamma, "gamma", "0: plain likelihood; more: hard tokens only.", range(0))}));
}
