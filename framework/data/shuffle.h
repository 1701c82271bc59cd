#pragma once
// The order of samples. The generator is part of what a run means: the same seed gives the same order on every machine and in every version.
//
// SplitMix64: state += 0x9E3779B97F4A7C15; z = state; z = (z ^ z>>30) * 0xBF58476D1CE4E5B9; z = (z ^ z>>27) * 0x94D049BB133111EB; z ^ z>>31.
// Started at seed ^ (epoch + 1) * 0xD1B54A32D192ED03. A number below n is the high half of next() * n, with the few values that would favour
// some results drawn again. Orders are Fisher-Yates shuffles from the end.
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tenon::host {

class OrderGenerator {
 public:
  OrderGenerator(int64_t seed, int64_t epoch);
  uint64_t next();
  uint64_t below(uint64_t n);

 private:
  uint64_t state_;
};

// 0 .. count - 1 in the order of one epoch.
std::vector<int64_t> shuffled(int64_t count, int64_t seed, int64_t epoch);

}  // namespace tenon::host
