#pragma once
// Rows of a batch: which samples stand in each.
#include <cstdint>
#include <vector>

namespace tenon::host {

struct Row {
  std::vector<int64_t> samples;  // indices, in the order in which they stand
  int64_t length = 0;            // tokens
};

// Best-fit decreasing (arXiv:2404.10830, the algorithm of TRL's "bfd"): longest first, each into the fullest row that still has room, else a new one.
// Equal lengths keep their order. Every length must be at most `max_length`.
std::vector<Row> pack_rows(const std::vector<int64_t>& lengths, int64_t max_length);

// One sample a row.
std::vector<Row> single_rows(const std::vector<int64_t>& lengths);

}  // namespace tenon::host
