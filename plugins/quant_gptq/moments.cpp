#include "moments.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "tenon/device.h"

namespace tenon::gptq {

namespace {

constexpr int64_t kSteps = 1024;  // of a panel: two panels stay in a core's second cache

int64_t panels(int64_t columns) { return (columns + kPanelColumns - 1) / kPanelColumns; }

// Columns [first, first + kPanelColumns) of `count` tokens, zeros where there are none.
void pack(const float* x, int64_t columns, int64_t count, int64_t first, float* panel) {
  const int64_t width = std::min<int64_t>(kPanelColumns, columns - first);
  for (int64_t t = 0; t < count; ++t, panel += kPanelColumns) {
    std::copy_n(x + t * columns + first, width, panel);
    std::fill(panel + width, panel + kPanelColumns, 0.0f);
  }
}

// Two tokens a step: of each column their values side by side.
void pack_pairs(const uint16_t* x, int64_t columns, int64_t count, int64_t first, uint32_t* panel) {
  const int64_t width = std::min<int64_t>(kPanelColumns, columns - first);
  for (int64_t t = 0; t < count; t += 2, panel += kPanelColumns) {
    const uint16_t* low = x + t * columns + first;
    if (t + 1 < count)
      for (int64_t c = 0; c < width; ++c) panel[c] = low[c] | static_cast<uint32_t>(low[columns + c]) << 16;
    else
      for (int64_t c = 0; c < width; ++c) panel[c] = low[c];
    std::fill(panel + width, panel + kPanelColumns, 0u);
  }
}

}  // namespace

void add_moments(const at::Tensor& x, at::Tensor& sum, const Kernels& k) {
  const int64_t columns = x.size(1), tokens = x.size(0), count = panels(columns);
  const bool in_pairs = x.scalar_type() == at::kBFloat16 && k.moments_bf16 != nullptr;
  const at::Tensor rows = in_pairs ? x.contiguous() : x.to(at::kFloat).contiguous();
  const int64_t at_once = in_pairs ? 2 * kSteps : kSteps;

  // Pairs of panels; those that share the right one lie together.
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (int64_t right = 0; right < count; ++right)
    for (int64_t left = 0; left <= right; ++left) pairs.emplace_back(left, right);
  at::Tensor packed = at::empty({count, kSteps * kPanelColumns}, at::kFloat);
  float* data = packed.mutable_data_ptr<float>();
  float* total = sum.mutable_data_ptr<float>();

  for (int64_t first = 0; first < tokens; first += at_once) {
    const int64_t part = std::min(at_once, tokens - first), steps = in_pairs ? (part + 1) / 2 : part;
    parallel_for(count, 1, [&](int64_t from, int64_t to) {
      for (int64_t p = from; p < to; ++p) {
        float* panel = data + p * kSteps * kPanelColumns;
        if (in_pairs)
          pack_pairs(reinterpret_cast<const uint16_t*>(rows.const_data_ptr<at::BFloat16>()) + first * columns, columns, part,
                     p * kPanelColumns, reinterpret_cast<uint32_t*>(panel));
        else
          pack(rows.const_data_ptr<float>() + first * columns, columns, part, p * kPanelColumns, panel);
      }
    });
    const auto kernel = in_pairs ? k.moments_bf16 : k.moments_f32;
    parallel_for(static_cast<int64_t>(pairs.size()), 1, [&](int64_t from, int64_t to) {
      for (int64_t p = from; p < to; ++p) {
        const auto [left, right] = pairs[static_cast<size_t>(p)];
        kernel({.left = data + left * kSteps * kPanelColumns,
                .right = data + right * kSteps * kPanelColumns,
                .steps = steps,
                .sum = total + left * kPanelColumns * columns + right * kPanelColumns,
                .stride = columns,
                .rows = std::min<int64_t>(kPanelColumns, columns - left * kPanelColumns),
                .columns = std::min<int64_t>(kPanelColumns, columns - right * kPanelColumns)});
      }
    });
  }
}

int64_t moments_bytes(int64_t columns) { return panels(columns) * kPanelColumns * kSteps * 4; }

}  // namespace tenon::gptq
