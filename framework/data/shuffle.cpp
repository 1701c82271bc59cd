#include "data/shuffle.h"

#include <numeric>
#include <utility>

namespace tenon::host {

OrderGenerator::OrderGenerator(int64_t seed, int64_t epoch)
    : state_(static_cast<uint64_t>(seed) ^ (static_cast<uint64_t>(epoch) + 1) * 0xD1B54A32D192ED03ULL) {}

uint64_t OrderGenerator::next() {
  uint64_t z = state_ += 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

uint64_t OrderGenerator::below(uint64_t n) {
  // Lemire, arXiv:1805.10941.
  using Wide = unsigned __int128;
  const uint64_t unfair = -n % n;
  for (;;) {
    const Wide product = static_cast<Wide>(next()) * n;
    if (static_cast<uint64_t>(product) >= unfair) return static_cast<uint64_t>(product >> 64);
  }
}

std::vector<int64_t> shuffled(int64_t count, int64_t seed, int64_t epoch) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  OrderGenerator generator(seed, epoch);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[generator.below(i)]);
  return order;
}

}  // namespace tenon::host
