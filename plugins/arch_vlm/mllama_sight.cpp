#include "mllama_sight.h"

#include <ATen/ops/tensor.h>

#include <algorithm>

#include "tenon/error.h"

namespace tenon::vlm {

namespace {

// Tokens of one row with the same segment.
struct Document {
  int64_t row = 0, first = 0, last = 0, segment = 1;
  std::vector<int64_t> images;   // where its image tokens stand
  const Mark* before = nullptr;  // what its tokens of an earlier call looked at last
};

std::vector<Document> documents(const at::Tensor& ids, const at::Tensor& segments, int64_t past, const Pictures& pictures,
                                const Marks* marks) {
  const bool reads_ids = !pictures.tiles.empty();
  const int64_t rows = ids.size(0), tokens = ids.size(1);
  const at::Tensor id = reads_ids ? ids.cpu().contiguous() : at::Tensor(),
                   segment = segments.defined() ? segments.cpu().contiguous() : at::Tensor();
  std::vector<Document> all;
  int64_t found = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t* i = reads_ids ? id.const_data_ptr<int64_t>() + r * tokens : nullptr;
    const int64_t* s = segment.defined() ? segment.const_data_ptr<int64_t>() + r * tokens : nullptr;
    for (int64_t t = 0; t < tokens; ++t) {
      if (t == 0 || (s && s[t] != s[t - 1])) {
        all.push_back({.row = r, .first = t, .segment = s ? s[t] : 1});
        const auto* held = marks && t == 0 && past > 0 ? &(*marks)[static_cast<size_t>(r)] : nullptr;
        if (held && !held->empty() && held->back().segment == all.back().segment) all.back().before = &held->back();
      }
      all.back().last = t + 1;
      if (i && i[t] == pictures.image_token && all.back().segment != 0) all.back().images.push_back(t), ++found;
      if (!i && !s) {
        all.back().last = tokens;
        break;
      }
    }
  }
  const int64_t fillers = std::count(pictures.is_filler.begin(), pictures.is_filler.end(), true);
  if (reads_ids && found != pictures.count() - fillers)
    fail(ErrorCode::Data, "the batch has ", found, " image tokens (id ", pictures.image_token, ") and ", pictures.count() - fillers,
         " pictures: each stands at one token");
  return all;
}

class Looker {
 public:
  Looker(int64_t past, const Pictures& pictures, Marks* marks) : past_(past), pictures_(pictures), marks_(marks) {}

  std::vector<Stretch> look(const std::vector<Document>& documents) {
    for (const Document& d : documents) look(d);
    return std::move(stretches_);
  }

 private:
  void look(const Document& d) {
    if (d.segment == 0) return add(d, d.first, d.last, {.views = {}});
    Mark mark = d.before ? *d.before : Mark{.is_blind = true, .views = blind_views(d)};
    // Whether the call before ended with a picture, which one here may follow without a word between.
    const bool goes_on = d.before && mark.is_image && mark.position == past_ - 1;
    int64_t at = d.first;
    const auto add_text = [&](int64_t last) {
      if (at == last) return;
      mark.is_image = false;
      add(d, at, last, mark);
      at = last;
    };
    for (size_t i = 0; i < d.images.size(); ++i) {
      const int64_t place = d.images[i];
      const bool touches = i > 0 ? place == d.images[i - 1] + 1 : goes_on && place == d.first;
      add_text(place);
      if (!touches) mark.views.clear();
      mark.views.push_back(take_next(d.row));
      mark.is_blind = false, mark.is_image = true;
      add(d, place, place + 1, mark);
      at = place + 1;
    }
    add_text(d.last);
  }

  std::vector<View> blind_views(const Document& d) const {
    std::vector<View> views;
    const auto add = [&](int64_t picture) { views.push_back({pictures_.first + picture, pictures_.max_tiles}); };
    if (pictures_.per_row > 0)
      for (int64_t i = 0; i < pictures_.per_row; ++i) add(d.row * pictures_.per_row + i);
    else
      for (size_t i = 0; i < d.images.size(); ++i) add(next_ + static_cast<int64_t>(i));
    return views;
  }

  // The picture of the row's next image token.
  View take_next(int64_t row) {
    while (!pictures_.is_filler.empty() && pictures_.is_filler[static_cast<size_t>(next_)]) ++next_;
    const int64_t picture = next_++;
    if (pictures_.per_row > 0 && picture / pictures_.per_row != row)
      fail(ErrorCode::Data, "row ", row, " has another number of image tokens (id ", pictures_.image_token, ") than of pictures");
    return {pictures_.first + picture, pictures_.tiles[static_cast<size_t>(picture)]};
  }

  void add(const Document& d, int64_t first, int64_t last, const Mark& mark) {
    auto& all = stretches_;
    if (!all.empty() && all.back().row == d.row && all.back().is_blind == mark.is_blind && all.back().views == mark.views)
      all.back().count += last - first;
    else
      all.push_back({.row = d.row, .first = first, .count = last - first, .is_blind = mark.is_blind, .views = mark.views});
    if (!marks_) return;
    auto& row = (*marks_)[static_cast<size_t>(d.row)];
    Mark held = mark;
    held.position = past_ + first, held.segment = d.segment;
    const auto is_same = [&](const Mark& m) {
      return m.segment == held.segment && m.is_image == held.is_image && m.is_blind == held.is_blind && m.views == held.views;
    };
    if (row.empty() || !is_same(row.back())) row.push_back(std::move(held));
  }

  int64_t past_;
  const Pictures& pictures_;
  Marks* marks_;
  std::vector<Stretch> stretches_;
  int64_t next_ = 0;  // picture
};

}  // namespace

void cut_marks(Marks& marks, int64_t length) {
  for (auto& row : marks)
    while (!row.empty() && row.back().position >= length) row.pop_back();
}

std::vector<Stretch> look(const at::Tensor& ids, const at::Tensor& segments, int64_t past, const Pictures& pictures, Marks* marks) {
  const bool sees =
      !pictures.tiles.empty() || (marks && std::any_of(marks->begin(), marks->end(), [](const auto& row) { return !row.empty(); }));
  if (!sees) return {};
  const std::vector<Document> all = documents(ids, segments, past, pictures, marks);
  return Looker(past, pictures, marks).look(all);
}

namespace {
enum Column : int64_t { kRow, kFirst, kCount, kBlind, kPicture, kTiles, kColumns };
constexpr int64_t kNothing = -1;
}  // namespace

at::Tensor pack(const std::vector<Stretch>& stretches) {
  std::vector<int64_t> lines;
  for (const Stretch& s : stretches) {
    const auto line = [&](int64_t picture, int64_t tiles) {
      lines.insert(lines.end(), {s.row, s.first, s.count, s.is_blind, picture, tiles});
    };
    for (const View& view : s.views) line(view.picture, view.tiles);
    if (s.views.empty()) line(kNothing, 0);
  }
  return at::tensor(lines, at::kLong).view({-1, kColumns});
}

std::vector<Stretch> unpack(const at::Tensor& packed) {
  const at::Tensor lines = packed.cpu().contiguous();
  const int64_t* line = lines.const_data_ptr<int64_t>();
  std::vector<Stretch> all;
  for (int64_t i = 0; i < lines.size(0); ++i, line += kColumns) {
    if (all.empty() || all.back().row != line[kRow] || all.back().first != line[kFirst])
      all.push_back({.row = line[kRow], .first = line[kFirst], .count = line[kCount], .is_blind = line[kBlind] != 0, .views = {}});
    if (line[kPicture] != kNothing) all.back().views.push_back({line[kPicture], line[kTiles]});
  }
  return all;
}

}  // namespace tenon::vlm
