// Round-to-nearest to 8 bits, one scale a row, and every fault that a quantizer's plugin can have. kFault says which one this is; "none" is right.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/round.h>
#include <ATen/ops/where.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string_view>

#include "tenon/export.h"
#include "tenon/plugin.h"
#include "tenon/quantizer.h"

extern const char kFault[];

namespace {

using namespace tenon;

bool is(std::string_view fault) { return fault == kFault; }

const struct ThrowsWhileLoading {
  ThrowsWhileLoading() {
    if (is("throws_in_constructor")) throw std::runtime_error("thrown by a static constructor");
  }
} throws_while_loading;

char* volatile kept = nullptr;

struct Options {
  int64_t strength = 1;
  bool loud = false;
};

// Good for one weight, when that is the fault.
struct Once final : Observer {
  void observe(const at::Tensor&) override {}
  mutable bool is_used = false;
};

class Faulty final : public Quantizer {
 public:
  explicit Faulty(const Options& options) {
    if (is("throws_in_make")) throw std::runtime_error("not made today");
    if (is("refuses_its_range") && options.strength == 9) throw std::runtime_error("9 is too strong");
  }

  std::string format() const override {
    if (is("throws_in_every_call")) throw std::runtime_error("not today");
    return "faulty/1";
  }
  QuantizerFacts facts() const override {
    if (is("throws_in_every_call")) throw std::runtime_error("not today");
    // A scale of 32 bits for a row of 1024; 127 steps over about four standard deviations.
    return {.bits_per_weight = is("lies_about_bits") ? 4 : 8 + 32.0 / 1024,
            .needs_calibration = is("uses_up_its_observer"),
            .max_relative_error = is("lies_about_error") ? 1e-3 : 0.015};
  }
  Support supports(const SlotSpec& slot) const override {
    if (slot.kind == SlotKind::Linear && slot.count == 1) return {};
    return Support::no(is("gives_no_reason") ? "" : "only plain linear weights");
  }
  std::vector<TensorSpec> resident(const SlotSpec& slot) const override {
    if (is("lies_about_shapes")) return {{"codes", {slot.numel()}, at::kChar}, {"scale", {slot.out, 1}, at::kFloat}};
    return {{"codes", {slot.out, slot.in}, at::kChar}, {"scale", {slot.out, 1}, at::kFloat}};
  }

  std::unique_ptr<Observer> make_observer(const SlotSpec&) const override { return std::make_unique<Once>(); }
  Tensors quantize(const SlotSpec& slot, const at::Tensor& weight, const Observer* calibration) const override {
    if (is("segfaults")) *static_cast<volatile int*>(nullptr) = 1;
    while (is("hangs")) ::pause();
    if (is("ends_the_process")) std::exit(0);
    if (is("leaks")) kept = new char[256];
    if (is("changes_grad_mode")) at::GradMode::set_enabled(false);
    Tensors packed = begin(slot, weight.device());
    quantize_rows(slot, weight, 0, packed);
    if (is("mutates_its_input")) at::Tensor(weight).mul_(1.5);
    if (const auto* once = static_cast<const Once*>(calibration)) {
      if (once->is_used) packed[0].zero_();
      once->is_used = true;
    }
    return packed;
  }
  int64_t row_granule(const SlotSpec&) const override { return 1; }
  Tensors begin(const SlotSpec& slot, at::Device device) const override {
    return {at::empty({slot.out, slot.in}, at::TensorOptions().dtype(at::kChar).device(device)),
            at::empty({slot.out, 1}, at::TensorOptions().dtype(at::kFloat).device(device))};
  }
  void quantize_rows(const SlotSpec&, const at::Tensor& rows, int64_t first_row, Tensors& work) const override {
    const at::Tensor w = rows.to(at::kFloat);
    at::Tensor scale = at::amax(w.abs(), {1}, true) / 127;
    if (!is("zeros_become_nan")) scale = at::where(scale == 0, 1.0, scale);
    const at::Tensor codes = is("zeros_become_nan") ? at::round(w / scale) : at::clamp(at::round(w / scale), -127, 127);
    work[0].narrow(0, first_row, w.size(0)).copy_(codes);
    work[1]
        .narrow(0, first_row, w.size(0))
        .copy_(is("zeros_become_nan") ? w.abs().amax({1}, true) / w.abs().amax({1}, true) * scale : scale);
  }
  Tensors finish(const SlotSpec&, Tensors work) const override {
    if (is("breaks_panels")) work[1].mul_(2);
    return work;
  }

  at::Tensor dequantize(const SlotSpec&, const Tensors& t, at::ScalarType dtype, int64_t first, int64_t last) const override {
    if (is("ignores_first_row") && last - first < t[0].size(0)) last -= first, first = 0;
    return (t[0].narrow(0, first, last - first).to(at::kFloat) * t[1].narrow(0, first, last - first)).to(dtype);
  }
  std::vector<at::Tensor> linear_many(std::span<const Operand> weights, const at::Tensor& x) const override {
    auto outputs = Quantizer::linear_many(weights, x);
    if (is("mixes_up_products")) std::reverse(outputs.begin(), outputs.end());
    return outputs;
  }
  at::Tensor grad_input(const SlotSpec& slot, const at::Tensor& dy, const Tensors& tensors) const override {
    const at::Tensor dx = Quantizer::grad_input(slot, dy, tensors);
    return is("lies_about_gradients") ? -dx : dx;
  }
};

}  // namespace

extern "C" TENON_API void tenon_plugin_register(tenon::Registrar* registrar);
extern "C" void tenon_plugin_register(tenon::Registrar* registrar) {
  if (is("grad_mode_in_register")) at::GradMode::set_enabled(false);
  if (is("changes_environment")) ::setenv("FAULTY_WAS_HERE", "1", 1);
  static int times = 0;
  const std::string summary = is("registers_differently") && ++times > 1 ? "Another text." : "Eight bits and a fault.";
  const auto table = option_table<Options>({
      option(&Options::strength, "strength", is("undocumented_option") ? "" : "How much.", range(0, 9)),
      option(&Options::loud, is("takes_host_key") ? "skip_modules" : "loud", "Whether it says so."),
  });
  registrar->quantizer<Options, Faulty>("faulty", summary, table);
  if (is("same_name_twice")) registrar->quantizer<Options, Faulty>("faulty", summary, table);
}
