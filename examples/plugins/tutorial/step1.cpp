// Round to nearest: each row of a weight becomes 8-bit integers and one scale.
#include <ATen/TensorOperators.h>

#include "tenon/plugin.h"

namespace {
using namespace tenon;

struct Options {};

struct Rtn final : Quantizer {
  explicit Rtn(const Options&) {}
  std::string format() const override { return "rtn/1"; }
  QuantizerFacts facts() const override { return {.bits_per_weight = 8}; }
  std::vector<TensorSpec> resident(const SlotSpec& s) const override {
    return {{"codes", {s.out, s.in}, at::kChar}, {"scales", {s.out, 1}, at::kFloat}};
  }
  Tensors quantize(const SlotSpec&, const at::Tensor& weight, const Observer*) const override {
    const at::Tensor w = weight.to(at::kFloat), scale = (w.abs().amax({1}, true) / 127).clamp_min(1e-30);
    return {(w / scale).round().to(at::kChar), scale};
  }
  at::Tensor dequantize(const SlotSpec&, const Tensors& t, at::ScalarType dtype, int64_t first, int64_t last) const override {
    return (t[0].narrow(0, first, last - first).to(at::kFloat) * t[1].narrow(0, first, last - first)).to(dtype);
  }
};
}  // namespace

TENON_PLUGIN(.id = "org.example.tutorial1", .version = "0.1.0", .provides = {"quantizer:rtn1"})
TENON_REGISTER(tenon::Registrar& r) { r.quantizer<Options, Rtn>("rtn1", "8-bit integers, one scale a row.", {}); }
