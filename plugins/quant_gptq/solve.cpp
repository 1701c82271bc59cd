#include "solve.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "kernels.h"
#include "tenon/device.h"

namespace tenon::gptq {

namespace {

class Solver {
 public:
  Solver(const at::Tensor& weight, const Settings& settings, const Factor* factor)
      : settings_(settings),
        factor_(factor && factor->upper.defined() ? factor : nullptr),
        rows_(weight.size(0)),
        columns_(weight.size(1)) {
    groups_ = settings.groups(columns_);
    // A whole row's range is taken before columns without input are dropped.
    const at::Tensor dense = weight.to(at::kFloat);
    const bool whole_row = settings_.group >= columns_;
    scales_ = at::empty({rows_, groups_}, at::kFloat), zeros_ = at::empty({rows_, groups_}, at::kFloat);
    weight_ = (whole_row ? dense : dropped(dense)).contiguous();
    if (whole_row || settings_.static_groups)
      for (int64_t g = 0; g < groups_; ++g) fit_group(weight_, g, 0, rows_);
    if (whole_row) weight_ = dropped(weight_);
    if (factor_ && factor_->order.defined()) weight_ = weight_.index_select(1, factor_->order);
    if (weight_.data_ptr() == weight.data_ptr()) weight_ = weight_.clone();
    dynamic_ = !whole_row && !settings_.static_groups;
    // Which group each column is in, counted as the scales are stored.
    group_of_.resize(static_cast<size_t>(columns_));
    const at::Tensor order = factor_ && factor_->order.defined() ? factor_->order : at::arange(columns_, at::kLong);
    const int64_t* place = order.const_data_ptr<int64_t>();
    for (int64_t c = 0; c < columns_; ++c)
      group_of_[static_cast<size_t>(c)] = static_cast<int>((settings_.is_reordered() ? c : place[c]) / settings_.group);
    order_.assign(place, place + columns_);
  }

  Solution run() {
    at::Tensor codes = at::empty({rows_, columns_}, at::kByte);
    for (int64_t first = 0; first < columns_; first += kBlockColumns) {
      const int64_t count = std::min<int64_t>(kBlockColumns, columns_ - first);
      at::Tensor errors = factor_ ? at::empty({rows_, count}, at::kFloat) : at::Tensor();
      parallel_for(rows_ / kTileRows, 1, [&](int64_t from, int64_t to) {
        for (int64_t tile = from; tile < to; ++tile) quantize(tile * kTileRows, first, count, codes, errors);
      });
      if (const int64_t rest = columns_ - first - count; factor_ && rest > 0)
        weight_.narrow(1, first + count, rest).addmm_(errors, factor_->upper.narrow(0, first, count).narrow(1, first + count, rest), 1, -1);
    }
    return finished(codes);
  }

 private:
  at::Tensor dropped(const at::Tensor& weight) const {
    return factor_ && factor_->dead.any().item<bool>() ? weight.masked_fill(factor_->dead.unsqueeze(0), 0.0) : weight;
  }

  // Columns [group * size, ...) of `from` give the scale of rows [begin, end).
  void fit_columns(const float* from, int64_t first, int64_t group, int64_t begin, int64_t end) {
    const int64_t count = std::min(settings_.group, columns_ - first);
    for (int64_t row = begin; row < end; ++row) {
      float low, high;
      kernels().range(from + row * columns_ + first, count, low, high);
      fit_range(low, high, settings_, scales_.mutable_data_ptr<float>()[row * groups_ + group],
                zeros_.mutable_data_ptr<float>()[row * groups_ + group]);
    }
  }
  void fit_group(const at::Tensor& from, int64_t group, int64_t begin, int64_t end) {
    fit_columns(from.const_data_ptr<float>(), group * settings_.group, group, begin, end);
  }

  void quantize(int64_t row, int64_t first, int64_t count, at::Tensor& codes, at::Tensor& errors) {
    const float* weight = weight_.const_data_ptr<float>();
    // The groups that these columns meet, each once.
    int local[kBlockColumns];
    std::vector<int> met;
    for (int64_t c = 0; c < count; ++c) {
      const int group = group_of_[static_cast<size_t>(first + c)];
      const auto found = std::find(met.begin(), met.end(), group);
      local[c] = static_cast<int>(found - met.begin());
      if (found == met.end()) met.push_back(group);
      // A group's scale comes from the weight as it is when the block that holds its first column begins.
      if (dynamic_ && (first + c) % settings_.group == 0) fit_columns(weight, first + c, group, row, row + kTileRows);
    }
    std::vector<float> scales(met.size() * kTileRows), zeros(met.size() * kTileRows);
    for (size_t g = 0; g < met.size(); ++g)
      for (int64_t i = 0; i < kTileRows; ++i) {
        scales[g * kTileRows + static_cast<size_t>(i)] = scales_.const_data_ptr<float>()[(row + i) * groups_ + met[g]];
        zeros[g * kTileRows + static_cast<size_t>(i)] = zeros_.const_data_ptr<float>()[(row + i) * groups_ + met[g]];
      }
    kernels().quantize_tile({.weight = weight + row * columns_ + first,
                             .stride = columns_,
                             .count = static_cast<int>(count),
                             .factor = factor_ ? factor_->upper.const_data_ptr<float>() + first * columns_ + first : nullptr,
                             .factor_stride = columns_,
                             .group = local,
                             .scales = scales.data(),
                             .zeros = zeros.data(),
                             .max_code = static_cast<float>(settings_.max_code()),
                             .codes = codes.mutable_data_ptr<uint8_t>() + row * columns_ + first,
                             .codes_stride = columns_,
                             .errors = factor_ ? errors.mutable_data_ptr<float>() + row * count : nullptr,
                             .errors_stride = count});
  }

  Solution finished(at::Tensor codes) {
    Solution s{.codes = codes, .scales = scales_, .zeros = zeros_.to(at::kByte), .order = at::arange(columns_, at::kInt)};
    if (!factor_ || !factor_->order.defined()) return s;
    if (settings_.is_reordered()) {
      s.order = factor_->order.to(at::kInt);
      return s;
    }
    std::vector<int64_t> back(order_.size());
    for (size_t c = 0; c < order_.size(); ++c) back[static_cast<size_t>(order_[c])] = static_cast<int64_t>(c);
    at::Tensor inverse = at::empty({columns_}, at::kLong);
    std::copy(back.begin(), back.end(), inverse.mutable_data_ptr<int64_t>());
    s.codes = codes.index_select(1, inverse);
    return s;
  }

  const Settings& settings_;
  const Factor* factor_;
  int64_t rows_, columns_, groups_ = 0;
  bool dynamic_ = false;
  at::Tensor weight_;  // float32, in the order of quantization, changing as columns are done
  at::Tensor scales_, zeros_;
  std::vector<int> group_of_;
  std::vector<int64_t> order_;
};

}  // namespace

void fit_range(float low, float high, const Settings& settings, float& scale, float& zero) {
  const float max_code = static_cast<float>(settings.max_code());
  low = std::min(low, 0.0f), high = std::max(high, 0.0f);
  if (settings.sym) {
    high = std::max(-low, high);
    if (low < 0) low = -high;
  }
  if (low == 0 && high == 0) low = -1, high = 1;
  scale = (high - low) / max_code;
  if (scale == 0) scale = FLT_MIN;  // the range of subnormal weights
  zero = settings.sym ? (max_code + 1) / 2 : std::clamp(std::nearbyint(-low / scale), 0.0f, max_code);
}

Solution solve(const at::Tensor& weight, const Settings& settings, const Factor* factor) {
  at::NoGradGuard no_grad;
  const int64_t rows = weight.size(0), spare = (kTileRows - rows % kTileRows) % kTileRows;
  if (spare == 0) return Solver(weight, settings, factor).run();
  Solution s = Solver(at::constant_pad_nd(weight, {0, 0, 0, spare}), settings, factor).run();
  for (at::Tensor* rows_of : {&s.codes, &s.scales, &s.zeros}) *rows_of = rows_of->narrow(0, 0, rows);
  return s;
}

}  // namespace tenon::gptq
