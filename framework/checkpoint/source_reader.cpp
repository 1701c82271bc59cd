#include "checkpoint/source_reader.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <c10/core/ScalarType.h>

#include <algorithm>

#include "checkpoint/accounting.h"
#include "checkpoint/printable.h"
#include "tenon/error.h"

namespace tenon::host {

SourceReader::SourceReader(const Checkpoint& checkpoint, Source source, std::vector<int64_t> shape)
    : checkpoint_(checkpoint), stack_(source.stack), shape_(std::move(shape)) {
  const int64_t per_member = pieces_per_member(source, shape_);
  if (stack_ && per_member == 0)
    fail(ErrorCode::Data, "a stack of ", source.pieces.size(), " tensors does not make up a weight of ", shape_text(shape_));
  int64_t row = 0, member_rows = 0;
  for (auto& piece : source.pieces) {
    const TensorSpec spec = checkpoint.spec(piece.tensor);
    const int64_t have = spec.shape.empty() ? 1 : spec.shape[0];
    const int64_t length = piece.length < 0 ? have - piece.start : piece.length;
    std::vector<int64_t> part_shape = spec.shape;
    if (!part_shape.empty()) part_shape[0] = length;
    std::vector<int64_t> expected = shape_;
    if (stack_) expected.erase(expected.begin());
    if (!expected.empty() && (!stack_ || per_member > 1)) expected[0] = length;
    if (piece.start < 0 || length < 0 || piece.start + length > have || part_shape != expected)
      fail(ErrorCode::Data, "tensor ", in_quotes(piece.tensor), " ", shape_text(spec.shape), " does not fit a weight of ",
           shape_text(shape_));
    dtype_ = parts_.empty() ? spec.dtype : c10::promoteTypes(dtype_, spec.dtype);
    parts_.push_back({std::move(piece.tensor), row, stack_ ? 1 : length, piece.start, length});
    member_rows += length;
    if (!stack_) {
      row += length;
    } else if (static_cast<int64_t>(parts_.size()) % per_member == 0) {
      if (per_member > 1 && member_rows != shape_.at(1))
        fail(ErrorCode::Data, "member ", row, " of a weight of ", shape_text(shape_), " is made of ", member_rows, " rows");
      member_rows = 0;
      ++row;
    }
  }
  if (row != rows()) fail(ErrorCode::Data, "the pieces of a weight of ", shape_text(shape_), " make up ", row, " rows");
}

void SourceReader::for_each_part(int64_t first, int64_t last, const std::function<void(const Part&, int64_t, int64_t)>& visit) const {
  if (first < 0 || first > last || last > rows())
    fail(ErrorCode::Internal, "rows [", first, ", ", last, ") asked for of a weight of ", shape_text(shape_));
  // The first part that ends behind `first`.
  auto it = std::upper_bound(parts_.begin(), parts_.end(), first, [](int64_t row, const Part& part) { return row < part.row + part.rows; });
  for (; it != parts_.end() && it->row < last; ++it) {
    if (it->rows == 0) continue;
    if (stack_) {
      visit(*it, it->start, it->start + it->length);
    } else {
      const int64_t from = std::max(first, it->row) - it->row, to = std::min(last, it->row + it->rows) - it->row;
      visit(*it, it->start + from, it->start + to);
    }
  }
}

at::Tensor SourceReader::read(int64_t first, int64_t last) const {
  std::vector<at::Tensor> pieces;
  for_each_part(first, last, [&](const Part& part, int64_t from, int64_t to) {
    at::Tensor view = checkpoint_.view_rows(part.tensor, from, to);
    if (view.dim() == 0 && stack_) view = view.unsqueeze(0);
    pieces.push_back(view.to(dtype_));
  });
  std::vector<int64_t> shape = shape_;
  if (!shape.empty()) shape[0] = last - first;
  if (!pieces.empty()) {
    const at::Tensor rows = pieces.size() == 1 ? pieces[0] : at::cat(pieces, 0);
    return stack_ ? rows.view(shape) : rows;
  }
  return at::empty(shape, at::TensorOptions().dtype(dtype_));
}

void SourceReader::release(int64_t first, int64_t last) const {
  for_each_part(first, last, [&](const Part& part, int64_t from, int64_t to) { checkpoint_.release_rows(part.tensor, from, to); });
}

void SourceReader::will_need(int64_t first, int64_t last) const {
  for_each_part(first, last, [&](const Part& part, int64_t from, int64_t to) { checkpoint_.will_need_rows(part.tensor, from, to); });
}

}  // namespace tenon::host
