#include "data/packing.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>

#include "data/shuffle.h"

using namespace tenon::host;

TEST_CASE("best fit decreasing fills the fullest row that has room") {
  // Longest first: 7 opens a row, 5 another, 4 fits only beside 5, 3 exactly beside 7, 2 opens a third.
  const std::vector<Row> rows = pack_rows({2, 3, 4, 5, 7}, 10);
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].samples == std::vector<int64_t>{4, 1});
  CHECK(rows[0].length == 10);
  CHECK(rows[1].samples == std::vector<int64_t>{3, 2});
  CHECK(rows[2].samples == std::vector<int64_t>{0});
}

TEST_CASE("every sample is packed once and no row overflows") {
  OrderGenerator generator(7, 0);
  std::vector<int64_t> lengths(2000);
  for (auto& length : lengths) length = 1 + static_cast<int64_t>(generator.below(100));
  std::set<int64_t> seen;
  int64_t total = 0;
  const std::vector<Row> rows = pack_rows(lengths, 128);
  for (const Row& row : rows) {
    int64_t length = 0;
    for (int64_t sample : row.samples) {
      CHECK(seen.insert(sample).second);
      length += lengths[static_cast<size_t>(sample)];
    }
    CHECK(length == row.length);
    CHECK(length <= 128);
    total += length;
  }
  CHECK(seen.size() == lengths.size());
  // With lengths this mixed, best fit decreasing leaves almost nothing free.
  CHECK(static_cast<double>(total) / static_cast<double>(rows.size() * 128) > 0.98);
}

TEST_CASE("the order generator gives its documented numbers") {
  // SplitMix64 from state 0 begins with these values (Vigna's reference implementation); seed 0xD1B5... at epoch 0 cancels to state 0.
  OrderGenerator generator(static_cast<int64_t>(0xD1B54A32D192ED03ULL), 0);
  CHECK(generator.next() == 0xE220A8397B1DCDAFULL);
  CHECK(generator.next() == 0x6E789E6AA1B965F4ULL);
  CHECK(generator.next() == 0x06C45D188009454FULL);
}

TEST_CASE("shuffles are permutations that depend on seed and epoch alone") {
  const std::vector<int64_t> a = shuffled(100, 42, 0);
  CHECK(a == shuffled(100, 42, 0));
  CHECK(a != shuffled(100, 42, 1));
  CHECK(a != shuffled(100, 43, 0));
  std::vector<int64_t> sorted = a;
  std::sort(sorted.begin(), sorted.end());
  for (size_t i = 0; i < sorted.size(); ++i) CHECK(sorted[i] == static_cast<int64_t>(i));
  // Each of 3! orders of three comes up about as often: 6000 draws, expected 1000 each, deviation about 29.
  std::map<std::vector<int64_t>, int> counts;
  for (int64_t epoch = 0; epoch < 6000; ++epoch) ++counts[shuffled(3, 1, epoch)];
  CHECK(counts.size() == 6);
  for (const auto& [order, count] : counts) CHECK(std::abs(count - 1000) < 150);
}
