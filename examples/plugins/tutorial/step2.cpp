// Packing: 4-bit codes, two in a byte, a scale for every 64 weights; rows stream through on all cores; an option and its error.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>

#include "tenon/plugin.h"

namespace {
using namespace tenon;

struct Options {
  int64_t group_size = 64;
};

class Rtn final : public Quantizer {
 public:
  explicit Rtn(const Options& options) : group_(options.group_size) {}
  std::string format() const override { return "rtn/2"; }  // other bytes, other number
  QuantizerFacts facts() const override { return {.bits_per_weight = 4 + 32.0 / static_cast<double>(group_), .max_relative_error = 0.14}; }
  Support supports(const SlotSpec& s) const override {
    if (s.kind != SlotKind::Linear) return Support::no("only linear layers");
    if (s.in % group_ != 0) return Support::no(concat("group_size ", group_, " does not divide ", s.in));
    return {};
  }
  std::vector<TensorSpec> resident(const SlotSpec& s) const override {
    return {{"codes", {s.out, s.in / 2}, at::kByte}, {"scales", {s.out, s.in / group_}, at::kFloat}};
  }
  // Rows stand alone: the host hands them over in panels, several at once.
  int64_t row_granule(const SlotSpec&) const override { return 1; }
  Tensors begin(const SlotSpec& s, at::Device device) const override {
    Tensors work;
    for (const auto& spec : resident(s)) work.push_back(at::empty(spec.shape, at::TensorOptions(device).dtype(spec.dtype)));
    return work;
  }
  void quantize_rows(const SlotSpec& s, const at::Tensor& rows, int64_t first, Tensors& work) const override {
    const int64_t n = rows.size(0);
    const at::Tensor w = rows.to(at::kFloat).view({n, s.in / group_, group_});
    const at::Tensor scale = (w.abs().amax({2}) / 7).clamp_min_(1e-30);
    const at::Tensor codes = ((w / scale.unsqueeze(2)).round_() + 8).to(at::kByte).view({n, s.in / 2, 2});
    work[0].narrow(0, first, n).copy_(codes.select(2, 0) * 16 + codes.select(2, 1));
    work[1].narrow(0, first, n).copy_(scale);
  }
  Tensors finish(const SlotSpec&, Tensors work) const override { return work; }
  Tensors quantize(const SlotSpec& s, const at::Tensor& weight, const Observer*) const override {
    Tensors work = begin(s, weight.device());
    quantize_rows(s, weight, 0, work);
    return work;
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

TENON_PLUGIN(.id = "org.example.tutorial2", .version = "0.1.0", .provides = {"quantizer:rtn2"})
TENON_REGISTER(tenon::Registrar& r) {
  r.quantizer<Options, Rtn>(
      "rtn2", "4-bit integers, one scale a group.",
      option_table<Options>({option(&Options::group_size, "group_size", "Weights of a row that share a scale.", one_of({32, 64, 128}))}));
}
