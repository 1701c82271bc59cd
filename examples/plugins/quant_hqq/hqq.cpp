#include "hqq.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace hqq {

namespace {

constexpr float kMostZero = 1024;

void round_to(const float* weights, int64_t n, const Grid& grid, float most, uint8_t* codes) {
  for (int64_t i = 0; i < n; ++i)
    codes[i] = static_cast<uint8_t>(std::clamp(std::nearbyint(weights[i] / grid.scale + grid.zero), 0.0F, most));
}

// The proximal operator of the l_p norm, in the paper's closed approximation (its equation 5).
float shrink(float x, float beta, float p) {
  const float size = std::fabs(x);
  if (size == 0) return 0;
  return std::copysign(std::max(size - std::pow(size, p - 1) / beta, 0.0F), x);
}

}  // namespace

double error_of(const float* weights, int64_t n, const Grid& grid, const uint8_t* codes, double p) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::pow(std::fabs(weights[i] - (static_cast<float>(codes[i]) - grid.zero) * grid.scale), p);
  return sum;
}

Grid quantize_group(const float* weights, int64_t n, const Settings& s, uint8_t* codes) {
  const auto most = static_cast<float>((1 << s.bits) - 1);
  const auto [low, high] = std::minmax_element(weights, weights + n);
  Grid grid;
  // Scale and zero point are kept as float16. Of a group that hardly varies but lies far from zero the zero point would be beyond its range: a wider
  // scale keeps it where float16 still has whole numbers.
  grid.scale = std::max({(*high - *low) / most, std::max(std::fabs(*low), std::fabs(*high)) / kMostZero, 1e-8F});
  grid.zero = -*low / grid.scale;
  round_to(weights, n, grid, most, codes);

  // Alternately: the error that the norm would rather leave alone, and the zero point that fits the rest best.
  std::vector<uint8_t> tried(codes, codes + n);
  double least = error_of(weights, n, grid, codes, s.p);
  Grid next = grid;
  float beta = s.beta;
  for (int step = 0; step < s.iterations; ++step, beta *= s.kappa) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float back = (static_cast<float>(tried[i]) - next.zero) * next.scale;
      const float outlying = shrink(weights[i] - back, beta, s.p);
      sum += static_cast<float>(tried[i]) - (weights[i] - outlying) / next.scale;
    }
    next.zero = static_cast<float>(sum / static_cast<double>(n));
    round_to(weights, n, next, most, tried.data());
    const double error = error_of(weights, n, next, tried.data(), s.p);
    if (error >= least) break;  // as the paper's code: stop at the first step that does not help
    least = error, grid = next;
    std::copy(tried.begin(), tried.end(), codes);
  }
  return grid;
}

}  // namespace hqq
