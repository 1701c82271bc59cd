// Checks of quantizers that look at inputs before they round.
#include "quantizer_kit.h"

namespace tenon::conformance {

namespace {

// Fed as the host feeds it: batches of any length, the last one short, rows of a larger tensor.
std::unique_ptr<Observer> fed_observer(const Setting& s, const SlotSpec& slot, const at::Tensor& inputs) {
  auto observer = s.quantizer->make_observer(slot);
  expect(observer != nullptr, "its facts say needs_calibration, make_observer returned nothing");
  const int64_t cuts[] = {0, 1, 60, inputs.size(0)};
  for (size_t i = 0; i + 1 < std::size(cuts); ++i) observer->observe(inputs.narrow(0, cuts[i], cuts[i + 1] - cuts[i]));
  return observer;
}

void check_calibration(Context& c) {
  bool any = false;
  for_each_setting(c, [&](const Setting& s) {
    expect(s.facts.needs_calibration || !s.facts.calibrates_by_stage,
           "facts() say calibrates_by_stage, but not needs_calibration: the host would not calibrate at all");
    if (!s.facts.needs_calibration) return;
    any = true;
    const SlotSpec slot = linear_slot(96, 256, at::kBFloat16), sibling = linear_slot(64, 256, at::kBFloat16);
    const int64_t bytes = s.quantizer->calibration_bytes(slot);
    expect(bytes >= 0, "calibration_bytes() of a [96, 256] weight is ", bytes);
    const at::Tensor weight = weight_for(slot, c.seed(), s.device), other = weight_for(sibling, c.seed() + 1, s.device);
    expect(all_finite(s.dense(slot, s.quantizer->quantize(slot, weight, nullptr))),
           "quantize() without an observer, for a weight that no text reached, gives numbers that are not finite");

    const at::Tensor inputs = normal({99, 256}, c.seed() + 2, at::kBFloat16).to(s.device), before = inputs.clone();
    const auto observer = fed_observer(s, slot, inputs);
    expect(same_bytes(inputs, before), "observe() wrote to the inputs: the model goes on with them");
    const Tensors first = s.quantizer->quantize(slot, weight, observer.get());
    expect(all_finite(s.dense(slot, first)), "a calibrated weight holds numbers that are not finite");
    // Weights that read one input share its observer.
    expect(all_finite(s.dense(sibling, s.quantizer->quantize(sibling, other, observer.get()))),
           "a second weight of the same input, quantized with the same observer, holds numbers that are not finite");
    expect(same_bytes(first, s.quantizer->quantize(slot, weight, observer.get())),
           "quantize() gives other bytes when its observer has served another weight before");
    expect(same_bytes(first, s.quantizer->quantize(slot, weight, fed_observer(s, slot, inputs).get())),
           "a second observer of the same inputs gives other bytes");
  });
  if (!any) skipped("facts().needs_calibration is false");
}

}  // namespace

std::vector<Check> quantizer_calibration_checks() {
  return {{"quantizer.calibration", 1, "quantizer.calls",
           "Calibration takes hours on large models: an observer that fails on a short batch or serves one weight only wastes them.",
           check_calibration}};
}

}  // namespace tenon::conformance
