// A fresh adapter changes nothing; a trained one changes the layer as merging does.
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>

#include <cstdio>

#include "tenon/plugin.h"

extern "C" void tenon_plugin_register(tenon::Registrar* registrar);  // what the host calls

namespace {
class Plain final : public tenon::Filler {
 public:
  explicit Plain(at::Tensor weight) : weight_(std::move(weight)) {}
  std::string describe() const override { return "plain"; }
  at::Tensor linear(const at::Tensor& x) override { return at::linear(x, weight_); }
  at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const override {
    return weight_.narrow(0, first, last - first).to(dtype);
  }

 private:
  at::Tensor weight_;
};
}  // namespace

int main() {
  tenon::Registrar registrar;
  tenon_plugin_register(&registrar);
  const auto adapter = registrar.adapters.at(0).make(tenon::Value::table());

  tenon::SlotSpec slot;
  slot.path = "model.layers.0.self_attn.q_proj";
  slot.out = 6, slot.in = 8;
  const at::Tensor weight = at::randn({6, 8}), x = at::randn({3, 8});
  const auto filler = adapter->wrap(slot, std::make_shared<Plain>(weight), at::kCPU, /*trainable=*/false);
  const bool starts_equal = at::equal(filler->linear(x), at::linear(x, weight));
  adapter->state().at(0).tensor.copy_(at::randn({6}));
  // Two ways to the same sum, in float32.
  const bool merges = at::allclose(filler->linear(x), at::linear(x, adapter->merge(slot, weight)), 1e-5, 1e-5);
  adapter->set_enabled(false);
  const bool can_be_off = at::equal(filler->linear(x), at::linear(x, weight));
  std::printf("starts equal %d, merges %d, can be off %d\n", starts_equal, merges, can_be_off);
  return starts_equal && merges && can_be_off ? 0 : 1;
}
