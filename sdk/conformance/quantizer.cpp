// Checks of what a quantizer stores.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "memory_file.h"
#include "quantizer_kit.h"

namespace tenon::conformance {

namespace {

constexpr at::ScalarType kWeightDtypes[] = {at::kFloat, at::kBFloat16, at::kHalf};

// One row, one column more than a power of two, odd everything, ordinary.
std::vector<std::pair<int64_t, int64_t>> shapes() { return {{96, 256}, {1, 256}, {64, 64}, {17, 33}, {3, 100}, {5, 1}, {33, 512}}; }

void expect_dense(const at::Tensor& w, int64_t rows, int64_t in, at::ScalarType dtype, const std::string& what) {
  expect(w.defined() && w.dim() == 2 && w.size(0) == rows && w.size(1) == in && w.scalar_type() == dtype, what, " is ",
         w.defined() ? concat(shape_text(w.sizes()), " ", c10::toString(w.scalar_type())) : std::string("undefined"), ", expected [", rows,
         ", ", in, "] ", c10::toString(dtype));
}

void check_calls(Context& c) {
  for_each_setting(c, [&](const Setting& s) {
    const std::string format = s.quantizer->format();
    const size_t slash = format.find('/');
    expect(slash != std::string::npos && slash > 0 && slash + 1 < format.size(), "format() is '", format,
           "', expected a name and a number, as in \"mine/1\"");
    expect(s.facts.bits_per_weight > 0, "facts().bits_per_weight is ", s.facts.bits_per_weight, ", expected a positive number");
    expect(!s.facts.devices.empty(), "facts().devices is empty, expected at least \"cpu\"");
    expect(!s.facts.compute_dtypes.empty(), "facts().compute_dtypes is empty");
    const SlotSpec slot = linear_slot(96, 256);
    const Support support = s.quantizer->supports(slot);
    expect(support.yes, "an ordinary [96, 256] float32 weight is not supported: ", support.reason);
    const Tensors tensors = s.pack(slot, weight_for(slot, c.seed(), s.device));
    expect(!tensors.empty(), "quantize returned no tensors");
    expect_dense(s.dense(slot, tensors), 96, 256, at::kFloat, "dequantize");
    const at::Tensor x = normal({2, 256}, c.seed() + 1, s.facts.compute_dtypes.front()).to(s.device);
    s.quantizer->linear(slot, x, tensors);
    s.quantizer->grad_input(slot, normal({2, 96}, c.seed() + 2, x.scalar_type()).to(s.device), tensors);
  });
}

void check_supports(Context& c) {
  for_each_setting(c, [&](const Setting& s) {
    for (const auto& [out, in] : shapes())
      for (const SlotKind kind : {SlotKind::Linear, SlotKind::Embedding, SlotKind::Experts}) {
        SlotSpec slot = linear_slot(out, in);
        slot.kind = kind;
        slot.count = kind == SlotKind::Experts ? 4 : 1;
        const Support first = s.quantizer->supports(slot), second = s.quantizer->supports(slot);
        expect(first.yes == second.yes, "supports() of one slot said both yes and no");
        expect(first.yes || !first.reason.empty(), "supports() says no to [", out, ", ", in, "] without a reason: the plan shows it");
      }
  });
}

void check_resident(Context& c) {
  for_each_setting(c, [&](const Setting& s) {
    for (const auto& [out, in] : shapes())
      for (const at::ScalarType dtype : kWeightDtypes) {
        const SlotSpec slot = linear_slot(out, in, dtype);
        if (!s.supports(slot)) continue;
        const auto specs = s.quantizer->resident(slot);
        const Tensors tensors = s.pack(slot, weight_for(slot, c.seed(), s.device));
        const std::string what = concat("of a [", out, ", ", in, "] ", c10::toString(dtype), " weight");
        expect(specs.size() == tensors.size(), "resident() ", what, " promises ", specs.size(), " tensors, quantize() gave ",
               tensors.size());
        for (size_t i = 0; i < specs.size(); ++i)
          expect(tensors[i].sizes() == at::IntArrayRef(specs[i].shape) && tensors[i].scalar_type() == specs[i].dtype, "tensor '",
                 specs[i].name, "' ", what, " is ", shape_text(tensors[i].sizes()), " ", c10::toString(tensors[i].scalar_type()),
                 ", resident() promises ", shape_text(specs[i].shape), " ", c10::toString(specs[i].dtype));
      }
  });
}

void check_bits(Context& c) {
  for_each_setting(c, [&](const Setting& s) {
    const SlotSpec slot = linear_slot(512, 1024);
    if (!s.supports(slot)) skipped("[512, 1024] is not supported");
    double bytes = 0;
    for (const auto& t : s.pack(slot, weight_for(slot, c.seed(), s.device))) bytes += static_cast<double>(t.nbytes());
    const double bits = bytes * 8 / static_cast<double>(slot.numel()), said = s.facts.bits_per_weight;
    // 2 %: what belongs to the tensor and not to its weights, and scales of a last block that is not full.
    expect(std::abs(bits - said) <= 0.02 * said, "a [512, 1024] weight is stored in ", bits, " bits per weight, facts() say ", said);
  });
}

void check_shapes(Context& c) {
  for_each_setting(c, [&](const Setting& s) {
    for (const auto& [out, in] : shapes())
      for (const at::ScalarType dtype : kWeightDtypes) {
        const SlotSpec slot = linear_slot(out, in, dtype);
        if (!s.supports(slot)) continue;
        const std::string what = concat("dequantize of [", out, ", ", in, "] ", c10::toString(dtype));
        // A view into a larger tensor: what a panel of a mapped file is.
        const at::Tensor larger = normal({out + 2, in}, c.seed(), dtype, 0.02).to(s.device);
        const at::Tensor view = larger.narrow(0, 1, out);
        const Tensors tensors = s.pack(slot, view);
        const at::Tensor whole = s.dense(slot, tensors);
        expect_dense(whole, out, in, at::kFloat, what);
        expect(all_finite(whole), what, " holds numbers that are not finite");
        if (!s.facts.needs_calibration)
          expect(same_bytes(whole, s.dense(slot, s.quantizer->quantize(slot, view, nullptr))), what,
                 " differs when the weight is a view into a larger tensor");
        for (const auto& [first, last] : {std::pair<int64_t, int64_t>{0, 0}, {0, out}, {out / 2, out}, {out - 1, out}}) {
          const at::Tensor part = s.quantizer->dequantize(slot, tensors, at::kFloat, first, last);
          expect_dense(part, last - first, in, at::kFloat, concat(what, ", rows ", first, " to ", last));
          expect(same_bytes(part.contiguous(), whole.narrow(0, first, last - first).contiguous()), what, ", rows ", first, " to ", last,
                 ", is not that part of the whole");
        }
        for (const at::ScalarType to : {at::kBFloat16, at::kHalf}) {
          const at::Tensor low = s.dense(slot, tensors, to);
          expect_dense(low, out, in, to, what);
          // One rounding, 2^-9 of each value in bfloat16, and one more where scales are rounded first.
          expect(relative_rms(low, whole) < 0.01, what, " to ", c10::toString(to), " is off by ", relative_rms(low, whole));
        }
      }
  });
}

void check_special_values(Context& c) {
  for_each_setting(c, [&](const Setting& s) {
    const SlotSpec slot = linear_slot(64, 256);
    if (!s.supports(slot)) skipped("[64, 256] is not supported");
    const at::Tensor zeros = at::zeros({64, 256}, at::kFloat).to(s.device);
    const at::Tensor back = s.dense(slot, s.pack(slot, zeros));
    expect(same_bytes(back.abs(), zeros), "a weight of zeros does not come back as zeros");

    at::Tensor outlier = weight_for(slot, c.seed(), at::kCPU);
    outlier[3][7] = 1e4;
    const at::Tensor kept = s.dense(slot, s.pack(slot, outlier.to(s.device))).cpu();
    expect(all_finite(kept), "one outlier of 1e4 makes numbers that are not finite");
    expect(kept[3][7].item<float>() > 5e3, "an outlier of 1e4 comes back as ", kept[3][7].item<float>());

    // A row that hardly varies, far from zero: where a zero point or a range goes out of its dtype.
    for (const double spread : {0.0, 1e-4}) {
      const at::Tensor narrow = normal({64, 256}, c.seed(), at::kFloat, spread).add_(0.5).to(s.device);
      const at::Tensor near = s.dense(slot, s.pack(slot, narrow));
      expect(all_finite(near), "weights of 0.5 +- ", spread, " make numbers that are not finite");
      // Twice what 2 bits do to normal weights; such rows are easier.
      expect(relative_rms(near, narrow) <= 1, "weights of 0.5 +- ", spread, " come back with a relative RMS error of ",
             relative_rms(near, narrow));
    }

    // Nothing is promised about the result: an Error or any numbers, and no crash.
    for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      at::Tensor poisoned = weight_for(slot, c.seed(), at::kCPU);
      poisoned[5][9] = bad;
      try {
        const Tensors tensors = s.pack(slot, poisoned.to(s.device));
        s.dense(slot, tensors);
        s.quantizer->linear(slot, normal({2, 256}, c.seed()).to(s.device), tensors);
      } catch (const Error&) {}
    }
  });
}

void check_error_bound(Context& c) {
  double worst = 0;
  bool is_declared = true;
  for_each_setting(c, [&](const Setting& s) {
    for (const auto& [out, in] : {std::pair<int64_t, int64_t>{256, 1024}, {64, 64}, {8, 2048}})
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        const SlotSpec slot = linear_slot(out, in, dtype);
        if (!s.supports(slot)) continue;
        const at::Tensor weight = weight_for(slot, c.seed() + static_cast<uint64_t>(out), s.device);
        const double error = relative_rms(s.dense(slot, s.pack(slot, weight)), weight), bound = s.facts.max_relative_error;
        worst = std::max(worst, error);
        is_declared = is_declared && bound > 0;
        expect(bound <= 0 || error <= bound, "relative RMS error ", error, " on normal [", out, ", ", in, "] ", c10::toString(dtype),
               " weights, facts() promise at most ", bound);
      }
  });
  if (!is_declared) skipped("facts().max_relative_error is not declared; the largest measured is ", worst);
}

void check_deterministic(Context& c) {
  for_each_setting(c, [&](const Setting& s) {
    const SlotSpec slot = linear_slot(96, 256);
    const at::Tensor weight = weight_for(slot, c.seed(), s.device);
    const Tensors first = s.pack(slot, weight);
    expect(same_bytes(first, s.pack(slot, weight)), "the same weight quantized twice gives other bytes");
    expect(same_bytes(first, make_setting(c, s.options, s.device).pack(slot, weight)),
           "a second quantizer of the same options gives other bytes");
    expect(same_bytes(s.dense(slot, first), s.dense(slot, first)), "dequantized twice, the same tensors give other numbers");
  });
}

void check_panels(Context& c) {
  bool any = false;
  for_each_setting(c, [&](const Setting& s) {
    for (const auto& [out, in] : shapes()) {
      const SlotSpec slot = linear_slot(out, in);
      if (!s.supports(slot)) continue;
      const int64_t granule = s.quantizer->row_granule(slot);
      if (granule == 0) continue;
      any = true;
      expect(granule > 0, "row_granule() is ", granule);
      const at::Tensor weight = weight_for(slot, c.seed(), s.device);
      Tensors work = s.quantizer->begin(slot, s.device);
      std::vector<int64_t> starts;
      for (int64_t row = 0; row < out; row += granule) starts.push_back(row);
      std::reverse(starts.begin(), starts.end());  // no order is promised
      for (const int64_t row : starts) {
        const int64_t rows = std::min(granule, out - row);
        s.quantizer->quantize_rows(slot, weight.narrow(0, row, rows).clone(), row, work);
      }
      expect(same_bytes(s.quantizer->finish(slot, std::move(work)), s.pack(slot, weight)), "a [", out, ", ", in, "] weight in panels of ",
             granule, " rows gives other bytes than quantize()");
    }
  });
  if (!any) skipped("row_granule() is 0: weights are quantized whole");
}

void check_round_trip(Context& c) {
  const bool has_format = !c.provided().attribute("format").empty();
  for_each_setting(c, [&](const Setting& s) {
    for (const auto& [out, in] : {std::pair<int64_t, int64_t>{96, 256}, {17, 33}}) {
      const SlotSpec slot = linear_slot(out, in);
      if (!s.supports(slot)) continue;
      const Tensors tensors = s.pack(slot, weight_for(slot, c.seed(), s.device));
      const at::Tensor dense = s.dense(slot, tensors);
      Tensors moved;  // the same bytes at another address, as after loading
      for (const auto& t : tensors) moved.push_back(t.clone());
      expect(same_bytes(dense, make_setting(c, s.options, s.device).dense(slot, moved)),
             "packed tensors, copied and given to another quantizer of the same options, come back as another weight");
      if (!has_format) continue;
      const MemoryFile file(s.quantizer->pack(slot, tensors));
      expect(!file.names().empty(), "pack() wrote nothing");
      const Value config = s.quantizer->quantization_config({}, slot.dtype);
      const std::optional<Value> options = s.quantizer->recognise(config, file);
      expect(options.has_value(), "recognise() does not know the quantization_config that quantization_config() made");
      const Setting reader = make_setting(c, *options, s.device);
      expect(!reader.quantizer->locate(slot, file).empty(), "locate() does not find what pack() wrote");
      Tensors back = reader.quantizer->unpack(slot, file);
      for (auto& t : back) t = t.to(s.device);
      expect(same_bytes(dense, reader.dense(slot, back)), "a weight that went through a file comes back as another one");
    }
  });
}

}  // namespace

std::vector<Check> quantizer_checks() {
  constexpr const char* kBase = "quantizer.calls";
  return {
      {kBase, 1, "load.names options.defaults", "The least a quantizer must do: pack an ordinary weight, unpack it, multiply with it.",
       check_calls},
      {"quantizer.supports", 1, kBase, "The plan shows why a weight stays dense: each no needs a reason, and the answer must not change.",
       check_supports},
      {"quantizer.resident", 1, kBase,
       "The plan's bytes are those that resident() promises: anything else breaks placement and memory limits.", check_resident},
      {"quantizer.bits", 1, kBase, "bits_per_weight is what users choose by.", check_bits},
      {"quantizer.shapes", 1, kBase, "Real models have odd widths, single rows and weights that are views into a mapped file.",
       check_shapes},
      {"quantizer.special_values", 1, kBase, "Pruned weights are zeros, real ones have outliers, and damaged files hold NaN.",
       check_special_values},
      {"quantizer.error_bound", 1, kBase, "A quantizer that is worse than it says ruins a model without a message.", check_error_bound},
      {"quantizer.deterministic", 1, kBase, "Other bytes from the same weight make runs irreproducible and files differ.",
       check_deterministic},
      {"quantizer.panels", 1, kBase,
       "The host streams large weights in panels of rows, in any order: the result must be that of the whole.", check_panels},
      {"quantizer.round_trip", 1, kBase, "What was saved must load as the same weight, bit by bit.", check_round_trip},
  };
}

}  // namespace tenon::conformance
