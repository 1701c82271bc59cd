#include "qwen_positions.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <array>
#include <map>

#include "tenon/error.h"

namespace tenon::vlm {

namespace {

at::Tensor on_cpu(const at::Tensor& x) { return x.defined() ? x.cpu().to(at::kLong).contiguous() : x; }

// Where the next token of a segment stands, and the position behind its largest one.
struct Cursor {
  int64_t next = 0, top = 0;
};

class Row {
 public:
  explicit Row(std::vector<HeldToken>* held) : held_(held), known_(held ? held->size() : 0) {}

  Cursor& cursor(int64_t segment) {
    const auto [at, is_new] = cursors_.try_emplace(segment);
    if (is_new && held_)
      for (size_t i = known_; i-- > 0;)
        if ((*held_)[i].segment == segment) {
          at->second.next = at->second.top = (*held_)[i].next;
          break;
        }
    return at->second;
  }
  void hold(int64_t segment, int64_t next) {
    if (held_) held_->push_back({segment, next});
  }

 private:
  std::vector<HeldToken>* held_;
  size_t known_;
  std::map<int64_t, Cursor> cursors_;
};

class Placer {
 public:
  Placer(const at::Tensor& ids, const at::Tensor& segments, const std::vector<TokenGrids>& kinds, Held* held)
      : kinds_(kinds), held_(held), ids_(on_cpu(ids)), segments_(on_cpu(segments)), rows_(ids.size(0)), tokens_(ids.size(1)) {}

  Placement run() {
    check_counts();
    positions_ = at::empty({3, rows_, tokens_}, at::kLong);
    places_.resize(kinds_.size());
    used_.resize(kinds_.size());
    for (int64_t r = 0; r < rows_; ++r) run_row(r);
    Placement placement;
    const bool has_media = std::any_of(used_.begin(), used_.end(), [](size_t count) { return count > 0; });
    placement.positions = has_media ? positions_ : positions_.narrow(0, 0, 1);
    for (const auto& places : places_) placement.places.push_back(at::tensor(places, at::kLong));
    return placement;
  }

 private:
  int64_t id(int64_t at) const { return ids_.const_data_ptr<int64_t>()[at]; }
  int64_t segment(int64_t at) const { return segments_.defined() ? segments_.const_data_ptr<int64_t>()[at] : 1; }
  int64_t* axis(int64_t a) { return positions_.mutable_data_ptr<int64_t>() + a * rows_ * tokens_; }

  void check_counts() const {
    for (const TokenGrids& kind : kinds_) {
      int64_t found = 0, expected = 0;
      for (int64_t i = 0; i < rows_ * tokens_; ++i) found += id(i) == kind.token && segment(i) != 0;
      for (const Grid& grid : kind.grids) expected += grid.tokens(kind.merge);
      // Without media the token is a text token like any other.
      if (!kind.grids.empty() && found != expected)
        fail(ErrorCode::Data, "the batch has ", found, " ", kind.kind, " tokens (id ", kind.token, ") and ", kind.grids.size(), " ",
             kind.kind, "s, which take ", expected);
    }
  }

  void run_row(int64_t r) {
    Row row(held_ ? &held_->at(static_cast<size_t>(r)) : nullptr);
    const int64_t begin = r * tokens_, end = begin + tokens_;
    for (int64_t at = begin; at < end;) {
      const int64_t own = segment(at);
      if (own == 0) {
        for (int64_t a = 0; a < 3; ++a) axis(a)[at] = 0;
        row.hold(0, 0), ++at;
        continue;
      }
      Cursor& cursor = row.cursor(own);
      if (const size_t k = kind_of(id(at)); k < kinds_.size()) {
        at = place_medium(k, at, end, own, cursor, row);
        continue;
      }
      for (int64_t a = 0; a < 3; ++a) axis(a)[at] = cursor.next;
      cursor.top = std::max(cursor.top, ++cursor.next);
      row.hold(own, cursor.top), ++at;
    }
  }

  size_t kind_of(int64_t token) const {
    for (size_t k = 0; k < kinds_.size(); ++k)
      if (kinds_[k].token == token && !kinds_[k].grids.empty()) return k;
    return kinds_.size();
  }

  int64_t place_medium(size_t k, int64_t at, int64_t end, int64_t own, Cursor& cursor, Row& row) {
    const TokenGrids& kind = kinds_[k];
    const size_t number = used_[k]++;
    if (number >= kind.grids.size()) fail(ErrorCode::Data, "the tokens of ", kind.kind, "s are more than the ", kind.kind, "s take");
    const Grid& grid = kind.grids[number];
    const int64_t count = grid.tokens(kind.merge), height = grid.rows / kind.merge, width = grid.columns / kind.merge;
    for (int64_t i = 0; i < count; ++i)
      if (at + i >= end || id(at + i) != kind.token || segment(at + i) != own)
        fail(ErrorCode::Data, kind.kind, " ", number, " takes ", count, " tokens (id ", kind.token, ") in a row, found ", i,
             ": media tokens must not be cut");
    const float step = kind.frame_steps.empty() ? 1.0f : kind.frame_steps[number];
    const int64_t start = cursor.next;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t frame = i / (height * width), y = i / width % height, x = i % width;
      const auto time = static_cast<int64_t>(static_cast<float>(frame) * step);
      const std::array<int64_t, 3> position = {start + time, start + y, start + x};
      for (int64_t a = 0; a < 3; ++a) axis(a)[at + i] = position[static_cast<size_t>(a)];
      cursor.top = std::max(cursor.top, *std::max_element(position.begin(), position.end()) + 1);
      places_[k].push_back(at + i);
    }
    cursor.next = start + std::max(height, width);
    cursor.top = std::max(cursor.top, cursor.next);
    for (int64_t i = 0; i < count; ++i) row.hold(own, cursor.top);
    return at + count;
  }

  const std::vector<TokenGrids>& kinds_;
  Held* held_;
  at::Tensor ids_, segments_, positions_;
  int64_t rows_, tokens_;
  std::vector<std::vector<int64_t>> places_;
  std::vector<size_t> used_;  // media of each kind so far
};

}  // namespace

Placement place_media(const at::Tensor& ids, const at::Tensor& segments, const std::vector<TokenGrids>& kinds, Held* held) {
  return Placer(ids, segments, kinds, held).run();
}

void hold_positions(const at::Tensor& positions, const at::Tensor& segments, Held& held) {
  const at::Tensor all = on_cpu(positions), own = on_cpu(segments);
  const int64_t axes = all.size(0), rows = all.size(1), tokens = all.size(2);
  const int64_t* values = all.const_data_ptr<int64_t>();
  for (int64_t r = 0; r < rows; ++r) {
    Row row(&held.at(static_cast<size_t>(r)));
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t segment = own.defined() ? own.const_data_ptr<int64_t>()[r * tokens + t] : 1;
      Cursor& cursor = row.cursor(segment);
      for (int64_t a = 0; a < axes; ++a) cursor.top = std::max(cursor.top, values[(a * rows + r) * tokens + t] + 1);
      row.hold(segment, segment == 0 ? 0 : cursor.top);
    }
  }
}

}  // namespace tenon::vlm
