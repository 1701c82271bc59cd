// Round to nearest in the stable tier: a row of a weight becomes 8-bit integers and one scale. docs/plugins/stable.md walks through this file.
#include "tenon/stable/plugin.h"

namespace {

using namespace tenon::stable;

struct Options {
  double clip = 1;
};

tenon::OptionTable option_table() {
  return tenon::option_table<Options>({
      tenon::option(&Options::clip, "clip", "The largest integer stands for this share of a row's largest weight.", tenon::range(0.5, 1)),
  });
}

class Rtn final : public Quantizer {
 public:
  explicit Rtn(const Options& options) : options_(options) {}

  std::string format() const override { return "stable_rtn/1"; }
  QuantizerFacts facts() const override {
    QuantizerFacts facts;
    facts.bits_per_weight = 8;
    facts.devices = {kCPU, kCUDA};
    return facts;
  }
  std::vector<TensorSpec> resident(const SlotSpec& slot) const override {
    return {{"codes", {slot.out, slot.in}, kChar}, {"scales", {slot.out, 1}, kFloat}};
  }

  // Rows stand alone, so the host may stream the weight through in panels of them.
  int64_t row_granule(const SlotSpec&) const override { return 1; }
  Tensors begin(const SlotSpec& slot, Device device) const override {
    return {ops::empty({slot.out, slot.in}, kChar, device), ops::empty({slot.out, 1}, kFloat, device)};
  }
  void quantize_rows(const SlotSpec&, const Tensor& rows, int64_t first_row, Tensors& work) const override {
    const Tensor w = ops::to(rows, kFloat);
    // A row of zeros would divide by zero.
    const Tensor scale = ops::maximum(ops::mul(ops::amax(ops::abs(w), 1, /*keepdim=*/true), options_.clip / 127), ops::number(1e-30, w));
    ops::copy(ops::rows(work[0], first_row, first_row + w.size(0)), ops::clamp(ops::round(ops::div(w, scale)), -127, 127));
    ops::copy(ops::rows(work[1], first_row, first_row + w.size(0)), scale);
  }
  Tensors finish(const SlotSpec&, Tensors work) const override { return work; }
  Tensors quantize(const SlotSpec& slot, const Tensor& weight, const Observer*) const override {
    Tensors work = begin(slot, weight.device());
    quantize_rows(slot, weight, 0, work);
    return work;
  }

  Tensor dequantize(const SlotSpec&, const Tensors& tensors, ScalarType dtype, int64_t first_row, int64_t last_row) const override {
    return ops::to(ops::mul(ops::to(ops::rows(tensors[0], first_row, last_row), kFloat), ops::rows(tensors[1], first_row, last_row)),
                   dtype);
  }

 private:
  Options options_;
};

}  // namespace

TENON_STABLE_PLUGIN(.id = "org.example.stable_rtn", .version = "0.1.0", .license = "Apache-2.0", .provides = {"quantizer:stable_rtn"})

TENON_STABLE_REGISTER(Registrar& registrar) {
  registrar.quantizer<Options, Rtn>("stable_rtn", "8-bit integers, one scale a row.", option_table());
}
