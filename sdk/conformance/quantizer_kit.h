#pragma once
// What the checks of quantizers share: the settings they run with, weights, and measures of difference.
#include <ATen/TensorOperators.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "check.h"

namespace tenon::conformance {

// A quantizer made with some options, on one device.
struct Setting {
  std::string label;  // "block_size = 32, cpu", for failures
  Value options;
  std::shared_ptr<const Quantizer> quantizer;
  QuantizerFacts facts;
  at::Device device = at::kCPU;

  // The plain way from a weight to packed tensors, calibrated where that is needed. The weight is not handed out: a copy is.
  Tensors pack(const SlotSpec& slot, const at::Tensor& weight) const;
  at::Tensor dense(const SlotSpec& slot, const Tensors& tensors, at::ScalarType dtype = at::kFloat) const {
    return quantizer->dequantize(slot, tensors, dtype);
  }
  bool supports(const SlotSpec& slot) const { return quantizer->supports(slot).yes; }
};

// Level 1: the defaults. From level 2 on also each option moved alone to each of its other choices. Failures carry the setting's label.
void for_each_setting(Context& context, const std::function<void(const Setting&)>& body);
// The defaults on the CPU.
Setting default_setting(Context& context);
Setting make_setting(Context& context, const Value& options, at::Device device);

SlotSpec linear_slot(int64_t out, int64_t in, at::ScalarType dtype = at::kFloat);
std::string shape_text(at::IntArrayRef shape);

// Normal numbers of standard deviation `scale`, from the seed alone.
at::Tensor normal(at::IntArrayRef shape, uint64_t seed, at::ScalarType dtype = at::kFloat, double scale = 1);
at::Tensor weight_for(const SlotSpec& slot, uint64_t seed, at::Device device = at::kCPU);

// RMS(a - b) / RMS(b) in float64; 0 for empty tensors.
double relative_rms(const at::Tensor& a, const at::Tensor& b);
bool same_bytes(const at::Tensor& a, const at::Tensor& b);
bool same_bytes(const Tensors& a, const Tensors& b);
bool all_finite(const at::Tensor& t);

// Products are compared as relative RMS over the whole result. Rounding x to bfloat16 gives 0.2 %, to 8 bits in rows about 0.7 %: the limit
// leaves room for both, and a wrong element, row or sign is far above it.
inline constexpr double kProductTolerance = 0.02;

}  // namespace tenon::conformance
