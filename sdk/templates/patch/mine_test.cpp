// What lies behind the window changes nothing; what lies inside does.
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>

#include <cstdio>

#include "tenon/nn/attention.h"
#include "tenon/plugin.h"

extern "C" void tenon_plugin_register(tenon::Registrar* registrar);  // what the host calls

int main() {
  tenon::Registrar registrar;
  tenon_plugin_register(&registrar);
  tenon::Value options = tenon::Value::table();
  options.set("window", 4);
  const auto patch = registrar.patches.at(0).make(options);
  tenon::Seams seams;
  seams.attention.set_default("sdpa", tenon::nn::Attention());
  if (!patch->on_seams(seams)) return 1;

  auto last_output = [&](const at::Tensor& keys) {
    const at::Tensor q = at::ones({1, 2, 10, 8}), v = at::arange(10, at::kFloat).view({1, 1, 10, 1}).expand({1, 2, 10, 8});
    return seams.attention({.q = q, .k = keys, .v = v, .scale = 1, .layer = 0}).select(2, 9);
  };
  const at::Tensor keys = at::randn({1, 2, 10, 8});
  at::Tensor far = keys.clone(), near = keys.clone();
  far.select(2, 5).zero_();
  near.select(2, 6).zero_();
  const bool blind = at::equal(last_output(keys), last_output(far)), sees = !at::equal(last_output(keys), last_output(near));
  std::printf("behind the window: %s, inside: %s\n", blind ? "unseen" : "SEEN", sees ? "seen" : "UNSEEN");
  return blind && sees ? 0 : 1;
}
