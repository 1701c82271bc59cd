#pragma once
// The quantization of one weight: codes, scales and zero points that lose the least on the observed inputs (GPTQ, arXiv:2210.17323).
#include <vector>

#include "hessian.h"

namespace tenon::gptq {

struct Solution {
  at::Tensor codes;   // uint8 [out, in], in the order of `order`
  at::Tensor scales;  // float32 [out, groups]
  at::Tensor zeros;   // uint8 [out, groups]
  at::Tensor order;   // int32 [in]: the weight's column at each place; identity unless settings.is_reordered()
};

// weight: [out, in], floating point, on the CPU. factor: null rounds each weight to the nearest code.
// Without reordering, codes come in the weight's own order whatever the order in which they were found.
Solution solve(const at::Tensor& weight, const Settings& settings, const Factor* factor);

// Scale and zero point of values between `low` and `high`: the range always holds 0.
void fit_range(float low, float high, const Settings& settings, float& scale, float& zero);

}  // namespace tenon::gptq
