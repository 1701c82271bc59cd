// gamma 0 is the likelihood itself; a larger one takes weight from tokens that the model knows.
#include <ATen/ops/log.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <cstdio>

#include "tenon/plugin.h"

extern "C" void tenon_plugin_register(tenon::Registrar* registrar);  // what the host calls

namespace {
struct Fixed final : tenon::ObjectiveContext {
  at::Tensor logprobs = at::tensor({0.9, 0.1}).log();
  tenon::TokenLogprobs token_logprobs(const tenon::TrainBatch&) override { return {logprobs, {}}; }
  tenon::TokenLogprobs reference_logprobs(const tenon::TrainBatch&) override { return {logprobs, {}}; }
};
}  // namespace

int main() {
  tenon::Registrar registrar;
  tenon_plugin_register(&registrar);
  auto loss = [&](double gamma) {
    tenon::Value options = tenon::Value::table();
    options.set("gamma", gamma);
    Fixed context;
    return registrar.objectives.at(0).make(options)->step(context, {}).loss_sum.item<double>();
  };
  const double plain = -(std::log(0.9) + std::log(0.1)), focal = -(0.01 * std::log(0.9) + 0.81 * std::log(0.1));
  std::printf("gamma 0: %.6f, gamma 2: %.6f\n", loss(0), loss(2));
  // Float32 sums of two numbers.
  return std::abs(loss(0) - plain) < 1e-5 && std::abs(loss(2) - focal) < 1e-5 ? 0 : 1;
}
