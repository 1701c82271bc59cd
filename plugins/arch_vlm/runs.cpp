#include "runs.h"

#include <ATen/ops/cat.h>

#include <cmath>
#include <vector>

namespace tenon::vlm {

at::Tensor attend_in_runs(const nn::Attention& attention, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const at::Tensor& lengths) {
  const int64_t heads = q.size(2), width = q.size(3);
  const at::Tensor counts = lengths.cpu();
  const int64_t *length = counts.const_data_ptr<int64_t>(), *end = length + counts.numel();
  std::vector<at::Tensor> mixed;
  // Runs of equal lengths are one batch.
  for (int64_t begin = 0; length != end;) {
    const int64_t each = *length;
    int64_t count = 0;
    for (; length != end && *length == each; ++length) ++count;
    const auto cut = [&](const at::Tensor& part) {
      return part.narrow(1, begin, count * each).reshape({count, each, heads, width}).transpose(1, 2);
    };
    mixed.push_back(
        attention(
            {.q = cut(q), .k = cut(k), .v = cut(v), .scale = 1 / std::sqrt(static_cast<double>(width)), .causal = false, .segments = {}})
            .transpose(1, 2)
            .reshape({1, count * each, heads * width}));
    begin += count * each;
  }
  return mixed.size() == 1 ? mixed[0] : at::cat(mixed, 1);
}

}  // namespace tenon::vlm
