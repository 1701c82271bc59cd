// Round to nearest: a row of a weight becomes 8-bit integers and one scale. docs/plugins/native.md walks through this file.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include "tenon/plugin.h"

namespace {

using tenon::SlotSpec, tenon::Tensors;

struct Options {
  double clip = 1;
};

tenon::OptionTable option_table() {
  return tenon::option_table<Options>({
      tenon::option(&Options::clip, "clip", "The largest integer stands for this share of a row's largest weight.", tenon::range(0.5, 1)),
  });
}

class Rtn final : public tenon::Quantizer {
 public:
  explicit Rtn(const Options& options) : options_(options) {}

  std::string format() const override { return "rtn/1"; }
  tenon::QuantizerFacts facts() const override { return {.bits_per_weight = 8, .devices = {"cpu", "cuda"}}; }

  std::vector<tenon::TensorSpec> resident(const SlotSpec& slot) const override {
    return {{"codes", {slot.out, slot.in}, at::kChar}, {"scales", {slot.out, 1}, at::kFloat}};
  }

  // Rows stand alone, so the host may stream the weight through in panels of them.
  int64_t row_granule(const SlotSpec&) const override { return 1; }
  Tensors begin(const SlotSpec& slot, at::Device device) const override {
    const auto on_device = at::TensorOptions(device);
    return {at::empty({slot.out, slot.in}, on_device.dtype(at::kChar)), at::empty({slot.out, 1}, on_device.dtype(at::kFloat))};
  }
  void quantize_rows(const SlotSpec&, const at::Tensor& rows, int64_t first_row, Tensors& work) const override {
    const at::Tensor w = rows.to(at::kFloat);
    // A row of zeros would divide by zero.
    const at::Tensor scale = (w.abs().amax({1}, /*keepdim=*/true) * (options_.clip / 127)).clamp_min_(1e-30);
    work[0].narrow(0, first_row, w.size(0)).copy_((w / scale).round_().clamp_(-127, 127));
    work[1].narrow(0, first_row, w.size(0)).copy_(scale);
  }
  Tensors finish(const SlotSpec&, Tensors work) const override { return work; }
  Tensors quantize(const SlotSpec& slot, const at::Tensor& weight, const tenon::Observer*) const override {
    Tensors work = begin(slot, weight.device());
    quantize_rows(slot, weight, 0, work);
    return work;
  }

  at::Tensor dequantize(const SlotSpec&, const Tensors& tensors, at::ScalarType dtype, int64_t first_row, int64_t last_row) const override {
    const int64_t rows = last_row - first_row;
    return (tensors[0].narrow(0, first_row, rows).to(at::kFloat) * tensors[1].narrow(0, first_row, rows)).to(dtype);
  }

 private:
  Options options_;
};

}  // namespace

TENON_PLUGIN(.id = "org.example.rtn", .version = "0.1.0", .license = "Apache-2.0", .provides = {"quantizer:rtn"})

TENON_REGISTER(tenon::Registrar& registrar) {
  registrar.quantizer<Options, Rtn>("rtn", "8-bit integers, one scale a row.", option_table());
}
