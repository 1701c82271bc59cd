// The behaviour that the paper reports, on weights that are drawn here: less l_p error than round to nearest, most where there are outliers and few bits;
// errors that fall with more bits and with smaller groups; no error in groups that lie on a grid.
#include "hqq.h"

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

namespace {

int failures = 0;
void check(bool claim, const char* text) {
  std::printf("%s: %s\n", claim ? "ok" : "FAILED", text);
  failures += !claim;
}

constexpr int64_t kWeights = 1 << 15;

// Mean |error|^0.7, and the same of outlying weights left out: what the norm is for.
double mean_error(const std::vector<float>& weights, int64_t group, hqq::Settings settings) {
  std::vector<uint8_t> codes(static_cast<size_t>(group));
  double sum = 0;
  for (int64_t i = 0; i < kWeights; i += group) {
    const hqq::Grid grid = hqq::quantize_group(weights.data() + i, group, settings, codes.data());
    sum += hqq::error_of(weights.data() + i, group, grid, codes.data(), 0.7);
  }
  return sum / static_cast<double>(kWeights);
}

}  // namespace

int main() {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::student_t_distribution<float> heavy(3);  // with outliers
  std::vector<float> plain(kWeights), outlying(kWeights);
  for (auto& w : plain) w = 0.02F * normal(random);
  for (auto& w : outlying) w = 0.02F * heavy(random);

  for (const int bits : {2, 3, 4, 8}) {
    const hqq::Settings nearest{.bits = bits, .iterations = 0}, half{.bits = bits};
    const double gain = 1 - mean_error(plain, 64, half) / mean_error(plain, 64, nearest);
    const double gain_outlying = 1 - mean_error(outlying, 64, half) / mean_error(outlying, 64, nearest);
    std::printf("%d bits: %.1f %% less error on normal weights, %.1f %% on weights with outliers\n", bits, 100 * gain, 100 * gain_outlying);
    check(gain >= 0 && gain_outlying >= 0, "never more error than round to nearest");
    check(gain > 0.005 && (bits > 3 || gain_outlying > gain), "less everywhere, and with few bits most where there are outliers");
  }
  check(mean_error(plain, 64, {.bits = 2}) > mean_error(plain, 64, {.bits = 3}) &&
            mean_error(plain, 64, {.bits = 3}) > mean_error(plain, 64, {.bits = 4}) &&
            mean_error(plain, 64, {.bits = 4}) > mean_error(plain, 64, {.bits = 8}),
        "each bit more is less error");
  check(mean_error(plain, 32, {}) < mean_error(plain, 64, {}) && mean_error(plain, 64, {}) < mean_error(plain, 128, {}),
        "smaller groups are less error");
  double before = mean_error(outlying, 64, {.iterations = 0});
  bool falls = true;
  for (const int steps : {1, 2, 5, 20}) {
    const double now = mean_error(outlying, 64, {.iterations = steps});
    falls = falls && now <= before;
    before = now;
  }
  check(falls, "more steps are never worse");

  std::vector<float> on_grid(64), same(64, 0.25F);
  for (size_t i = 0; i < on_grid.size(); ++i) on_grid[i] = 0.5F * static_cast<float>(i % 16) - 3;
  std::vector<uint8_t> codes(64);
  const hqq::Grid grid = hqq::quantize_group(on_grid.data(), 64, {}, codes.data());
  check(hqq::error_of(on_grid.data(), 64, grid, codes.data(), 1) < 1e-4, "weights on a grid come back");  // float32 sums of 64
  const hqq::Grid flat = hqq::quantize_group(same.data(), 64, {}, codes.data());
  check(hqq::error_of(same.data(), 64, flat, codes.data(), 1) < 1e-4, "so does a group of one value");
  return failures;
}
