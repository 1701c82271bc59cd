// Quantizer "hqq" in the stable tier: one binary for many LibTorch releases.
#include <torch/headeronly/util/Half.h>

#include "hqq.h"
#include "tenon/stable/plugin.h"

namespace {

using namespace tenon::stable;

struct Options {
  int64_t bits = 4;
  int64_t group_size = 64;
  int64_t iterations = 20;
};

tenon::OptionTable option_table() {
  return tenon::option_table<Options>({
      tenon::option(&Options::bits, "bits", "Of a code; 8, 4 or 2 fill a byte.", tenon::one_of({2, 4, 8})),
      tenon::option(&Options::group_size, "group_size", "Weights of a row that share a scale and a zero point.",
                    tenon::one_of({16, 32, 64, 128})),
      tenon::option(&Options::iterations, "iterations", "Steps of the half-quadratic solver at most; 0: round to nearest.",
                    tenon::range(0, 1000)),
  });
}

class Hqq final : public Quantizer {
 public:
  explicit Hqq(const Options& options) : o_(options), per_byte_(8 / options.bits) {}

  std::string format() const override { return "hqq/1"; }
  QuantizerFacts facts() const override {
    QuantizerFacts facts;
    facts.bits_per_weight = static_cast<double>(o_.bits) + 32.0 / static_cast<double>(o_.group_size);
    // Measured in the widest groups, of 128: at worst 0.527, 0.105 and 0.0062 in 200 draws of 4096 normal weights, without solving (which takes 1 to 6 %
    // of it away). A tenth more for other draws; at 8 bits two tenths, because scales of small weights are coarse in float16.
    facts.max_relative_error = o_.bits == 2 ? 0.58 : o_.bits == 4 ? 0.116 : 0.0075;
    return facts;
  }
  Support supports(const SlotSpec& slot) const override {
    if (slot.kind != SlotKind::Linear || slot.count != 1) return Support::no("only linear layers");
    if (slot.in % o_.group_size != 0)
      return Support::no("group_size " + std::to_string(o_.group_size) + " does not divide " + std::to_string(slot.in));
    return {};
  }
  std::vector<TensorSpec> resident(const SlotSpec& slot) const override {
    const int64_t groups = slot.in / o_.group_size;
    return {{"codes", {slot.out, slot.in / per_byte_}, kByte}, {"scales", {slot.out, groups}, kHalf}, {"zeros", {slot.out, groups}, kHalf}};
  }

  // Rows stand alone: the host streams the weight through in panels of them, on all cores.
  int64_t row_granule(const SlotSpec&) const override { return 1; }
  Tensors begin(const SlotSpec& slot, Device device) const override {
    Tensors work;
    for (const auto& spec : resident(slot)) work.push_back(ops::empty(spec.shape, spec.dtype, device));
    return work;
  }
  void quantize_rows(const SlotSpec& slot, const Tensor& rows, int64_t first_row, Tensors& work) const override {
    const Tensor weights = ops::contiguous(ops::to(rows, kFloat));
    const int64_t groups = slot.in / o_.group_size;
    const auto* source = weights.const_data_ptr<float>();
    auto* codes = work[0].mutable_data_ptr<uint8_t>() + first_row * slot.in / per_byte_;
    auto* scales = static_cast<c10::Half*>(work[1].mutable_data_ptr()) + first_row * groups;
    auto* zeros = static_cast<c10::Half*>(work[2].mutable_data_ptr()) + first_row * groups;
    parallel_for(weights.size(0) * groups, 64, [&](int64_t begin, int64_t end) {
      std::vector<uint8_t> bytes(static_cast<size_t>(o_.group_size));
      const hqq::Settings settings{.bits = static_cast<int>(o_.bits), .iterations = static_cast<int>(o_.iterations)};
      for (int64_t g = begin; g < end; ++g) {
        const hqq::Grid grid = hqq::quantize_group(source + g * o_.group_size, o_.group_size, settings, bytes.data());
        scales[g] = grid.scale, zeros[g] = grid.zero;
        write_codes(bytes, codes + g * o_.group_size / per_byte_);
      }
    });
  }
  Tensors finish(const SlotSpec&, Tensors work) const override { return work; }
  Tensors quantize(const SlotSpec& slot, const Tensor& weight, const Observer*) const override {
    Tensors work = begin(slot, weight.device());
    quantize_rows(slot, weight, 0, work);
    return work;
  }

  Tensor dequantize(const SlotSpec& slot, const Tensors& tensors, ScalarType dtype, int64_t first_row, int64_t last_row) const override {
    const int64_t groups = slot.in / o_.group_size, mask = (1 << o_.bits) - 1;
    Tensor dense = ops::empty({last_row - first_row, slot.in}, kFloat);
    const auto* codes = tensors[0].const_data_ptr<uint8_t>() + first_row * slot.in / per_byte_;
    const auto* scales = static_cast<const c10::Half*>(tensors[1].const_data_ptr()) + first_row * groups;
    const auto* zeros = static_cast<const c10::Half*>(tensors[2].const_data_ptr()) + first_row * groups;
    auto* out = dense.mutable_data_ptr<float>();
    parallel_for((last_row - first_row) * groups, 256, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) {
        const float scale = scales[g], zero = zeros[g];
        for (int64_t i = g * o_.group_size; i < (g + 1) * o_.group_size; ++i) {
          const int64_t code = codes[i / per_byte_] >> (o_.bits * (i % per_byte_)) & mask;
          out[i] = (static_cast<float>(code) - zero) * scale;
        }
      }
    });
    return ops::to(dense, dtype);
  }

 private:
  void write_codes(const std::vector<uint8_t>& codes, uint8_t* bytes) const {
    for (size_t i = 0; i < codes.size(); i += static_cast<size_t>(per_byte_)) {
      unsigned byte = 0;
      for (int64_t k = 0; k < per_byte_; ++k) byte |= static_cast<unsigned>(codes[i + static_cast<size_t>(k)]) << (o_.bits * k);
      *bytes++ = static_cast<uint8_t>(byte);
    }
  }
  Options o_;
  int64_t per_byte_;
};

}  // namespace

TENON_STABLE_PLUGIN(.id = "org.example.quant_hqq", .version = "0.1.0", .license = "Apache-2.0", .provides = {"quantizer:hqq"})

TENON_STABLE_REGISTER(Registrar& registrar) {
  registrar.quantizer<Options, Hqq>("hqq", "Half-quadratic quantization: zero points that let outliers be wrong.", option_table());
}
