// A fresh adapter changes nothing, both kinds of vectors do what merging them does, and a bias is scaled with the outputs.
#include "ia3.h"

#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>

#include <cstdio>

namespace {

class Plain final : public tenon::Filler {
 public:
  Plain(at::Tensor weight, at::Tensor bias) : weight_(std::move(weight)), bias_(std::move(bias)) {}
  std::string describe() const override { return "plain"; }
  at::Tensor linear(const at::Tensor& x) override { return at::linear(x, weight_, bias_); }
  at::Tensor dense_rows(at::ScalarType dtype, int64_t first, int64_t last) const override {
    return weight_.narrow(0, first, last - first).to(dtype);
  }
  at::Tensor bias() const override { return bias_; }

 private:
  at::Tensor weight_, bias_;
};

int failures = 0;
void check(bool claim, const char* text) {
  std::printf("%s: %s\n", claim ? "ok" : "FAILED", text);
  failures += !claim;
}

tenon::SlotSpec slot(const char* path) {
  tenon::SlotSpec spec;
  spec.path = path;
  spec.out = 6, spec.in = 8;
  return spec;
}

}  // namespace

int main() {
  tenon::Blueprint blueprint;
  blueprint.model_type = "llama";
  blueprint.slots = {slot("model.layers.0.self_attn.q_proj"), slot("model.layers.0.self_attn.k_proj"),
                     slot("model.layers.0.mlp.down_proj")};
  ia3::Ia3 adapter({});
  check(adapter.targets(blueprint) == std::vector<std::string>{"model.layers.0.self_attn.k_proj", "model.layers.0.mlp.down_proj"},
        "PEFT's targets for a Llama");

  const at::Tensor weight = at::randn({6, 8}), bias = at::randn({6}), x = at::randn({3, 8});
  for (const auto& spec : {blueprint.slots[1], blueprint.slots[2]}) {
    const bool is_feedforward = spec.path.ends_with("down_proj");
    const auto filler = adapter.wrap(spec, std::make_shared<Plain>(weight, bias), at::kCPU, /*trainable=*/true);
    check(at::equal(filler->linear(x), at::linear(x, weight, bias)), "a fresh adapter changes nothing");
    const at::Tensor l = adapter.state().back().tensor;
    check(l.sizes() == (is_feedforward ? at::IntArrayRef({1, 8}) : at::IntArrayRef({6, 1})), "shapes are PEFT's");
    l.detach().copy_(at::randn(l.sizes()));
    const at::Tensor y = filler->linear(x);
    // Two ways to the same float32 sums.
    check(at::allclose(y, at::linear(x, adapter.merge(spec, weight), filler->bias()), 1e-5, 1e-5), "merged, it computes the same");
    check(at::equal(filler->bias(), bias) == is_feedforward, "the bias is scaled with the outputs, not with the inputs");
    y.sum().backward();
    check(l.grad().defined() && l.grad().abs().sum().item<double>() > 0, "the vector gets a gradient");
    adapter.set_enabled(false);
    check(at::equal(filler->linear(x), at::linear(x, weight, bias)), "switched off, it is its base");
    adapter.set_enabled(true);
  }
  return failures;
}
