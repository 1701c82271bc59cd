#include "data/batches.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace tenon::host {

TrainBatch make_batch(const Dataset& set, std::span<const int64_t> rows) {
  int64_t width = 0;
  for (int64_t row : rows) width = std::max(width, set.rows[static_cast<size_t>(row)].length);
  const auto height = static_cast<int64_t>(rows.size());
  TrainBatch batch;
  batch.input.ids = at::zeros({height, width}, at::kLong);
  batch.labels = at::full({height, width}, kIgnore, at::kLong);
  at::Tensor segments = at::zeros({height, width}, at::kLong);
  bool is_plain = true;
  std::vector<Medium> media;
  for (int64_t r = 0; r < height; ++r) {
    const Row& row = set.rows[static_cast<size_t>(rows[static_cast<size_t>(r)])];
    is_plain &= row.samples.size() == 1 && row.length == width;
    int64_t* ids = batch.input.ids.mutable_data_ptr<int64_t>() + r * width;
    int64_t* labels = batch.labels.mutable_data_ptr<int64_t>() + r * width;
    int64_t* segment = segments.mutable_data_ptr<int64_t>() + r * width;
    int64_t at = 0, number = 0;
    for (int64_t index : row.samples) {
      const Sample& sample = set.samples[static_cast<size_t>(index)];
      const auto length = static_cast<int64_t>(sample.ids.size());
      std::copy(sample.ids.begin(), sample.ids.end(), ids + at);
      std::copy(sample.labels.begin() + 1, sample.labels.end(), labels + at + 1);
      std::fill_n(segment + at, length, ++number);
      at += length;
      media.insert(media.end(), sample.media.begin(), sample.media.end());
    }
  }
  if (!is_plain) batch.input.segments = segments;
  if (!media.empty()) batch.input.media = set.processor->load(media);
  return batch;
}

int64_t token_count(const Dataset& set, std::span<const int64_t> rows) {
  int64_t count = 0;
  for (int64_t row : rows) count += set.rows[static_cast<size_t>(row)].length;
  return count;
}

std::string origins(const Dataset& set, std::span<const int64_t> rows, size_t limit) {
  std::string text;
  size_t count = 0;
  for (int64_t row : rows)
    for (int64_t index : set.rows[static_cast<size_t>(row)].samples)
      if (++count <= limit) text += (text.empty() ? "" : ", ") + set.samples[static_cast<size_t>(index)].origin;
  if (count > limit) text += concat(" and ", count - limit, " more");
  return text;
}

}  // namespace tenon::host
