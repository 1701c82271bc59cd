#include "data/packing.h"

#include <algorithm>
#include <deque>
#include <map>
#include <numeric>

#include "tenon/error.h"

namespace tenon::host {

std::vector<Row> pack_rows(const std::vector<int64_t>& lengths, int64_t max_length) {
  std::vector<int64_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return lengths[static_cast<size_t>(a)] > lengths[static_cast<size_t>(b)]; });
  std::vector<Row> rows;
  std::map<int64_t, std::deque<size_t>> by_room;  // rows that are not full
  for (int64_t sample : order) {
    const int64_t length = lengths[static_cast<size_t>(sample)];
    if (length > max_length) fail(ErrorCode::Internal, "a sample of ", length, " tokens cannot be packed into rows of ", max_length);
    auto fit = by_room.lower_bound(length);
    size_t row;
    if (fit == by_room.end()) {
      row = rows.size();
      rows.emplace_back();
    } else {
      row = fit->second.front();
      fit->second.pop_front();
      if (fit->second.empty()) by_room.erase(fit);
    }
    rows[row].samples.push_back(sample);
    rows[row].length += length;
    if (const int64_t room = max_length - rows[row].length; room > 0) by_room[room].push_back(row);
  }
  return rows;
}

std::vector<Row> single_rows(const std::vector<int64_t>& lengths) {
  std::vector<Row> rows;
  rows.reserve(lengths.size());
  for (size_t i = 0; i < lengths.size(); ++i) rows.push_back({{static_cast<int64_t>(i)}, lengths[i]});
  return rows;
}

}  // namespace tenon::host
