// Calibration: the scale of a group is the one whose rounding hurts least on the inputs that the layer really sees.
#include <ATen/TensorOperators.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "tenon/plugin.h"

namespace {
using namespace tenon;

struct Options {
  int64_t group_size = 64;
};

// The mean square of each input, over all tokens that the host shows.
class InputPower final : public Observer {
 public:
  explicit InputPower(int64_t in) : sum_(at::zeros({in})) {}
  void observe(const at::Tensor& x) override {
    sum_ += x.to(at::kFloat).square().sum({0}).to(sum_.device());
    tokens_ += x.size(0);
  }
  at::Tensor mean() const { return sum_ / std::max<int64_t>(tokens_, 1); }

 private:
  at::Tensor sum_;
  int64_t tokens_ = 0;
};

class Rtn final : public Quantizer {
 public:
  explicit Rtn(const Options& options) : group_(options.group_size) {}
  std::string format() const override { return "rtn/2"; }  // other bytes, other number
  QuantizerFacts facts() const override {
    return {.bits_per_weight = 4 + 32.0 / static_cast<double>(group_), .needs_calibration = true, .max_relative_error = 0.2};
  }
  Support supports(const SlotSpec& s) const override {
    if (s.kind != SlotKind::Linear) return Support::no("only linear layers");
    if (s.in % group_ != 0) return Support::no(concat("group_size ", group_, " does not divide ", s.in));
    return {};
  }
  std::vector<TensorSpec> resident(const SlotSpec& s) const override {
    return {{"codes", {s.out, s.in / 2}, at::kByte}, {"scales", {s.out, s.in / group_}, at::kFloat}};
  }
  // No row_granule: a weight is quantized whole, once its inputs have been watched.
  std::unique_ptr<Observer> make_observer(const SlotSpec& s) const override { return std::make_unique<InputPower>(s.in); }
  // The sums, and float32 copies of the weight while it is rounded.
  int64_t calibration_bytes(const SlotSpec& s) const override { return 4 * (s.in + 3 * s.numel()); }
  Tensors quantize(const SlotSpec& s, const at::Tensor& weight, const Observer* calibration) const override {
    const at::Tensor w = weight.to(at::kFloat).view({s.out, s.in / group_, group_});
    at::Tensor power = at::ones({1, s.in / group_, group_}, w.options());
    if (const auto* seen = static_cast<const InputPower*>(calibration)) power = seen->mean().view_as(power);
    const at::Tensor widest = (w.abs().amax({2}, true) / 7).clamp_min_(1e-30);
    at::Tensor scale = widest, least = at::full_like(widest, INFINITY);
    for (const double share : {1.0, 0.95, 0.9, 0.85, 0.8, 0.75}) {
      const at::Tensor tried = widest * share;
      const at::Tensor error = ((w / tried).round_().clamp_(-7, 7) * tried - w).square_().mul_(power).sum({2}, true);
      scale = at::where(error < least, tried, scale), least = at::minimum(error, least);
    }
    const at::Tensor codes = ((w / scale).round_().clamp_(-7, 7) + 8).to(at::kByte).view({s.out, s.in / 2, 2});
    return {codes.select(2, 0) * 16 + codes.select(2, 1), scale.view({s.out, s.in / group_}).contiguous()};
  }
  at::Tensor dequantize(const SlotSpec& s, const Tensors& t, at::ScalarType dtype, int64_t first, int64_t last) const override {
    const int64_t n = last - first;
    const at::Tensor bytes = t[0].narrow(0, first, n), scales = t[1].narrow(0, first, n);
    const at::Tensor codes = at::stack({bytes.bitwise_right_shift(4), bytes % 16}, 2).to(at::kFloat).view({n, s.in / group_, group_});
    return ((codes - 8) * scales.unsqueeze(2)).view({n, s.in}).to(dtype);
  }

 private:
  int64_t group_;
};
}  // namespace

TENON_PLUGIN(.id = "org.example.tutorial5", .version = "0.1.0", .provides = {"quantizer:rtn5"})
TENON_REGISTER(tenon::Registrar& r) {
  r.quantizer<Options, Rtn>(
      "rtn5", "4-bit integers, one scale a group.",
      option_table<Options>({option(&Options::group_size, "group_size", "Weights of a row that share a scale.", one_of({32, 64, 128}))}));
}
