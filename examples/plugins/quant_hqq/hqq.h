#pragma once
// Half-quadratic quantization (Badri and Shaji 2023): the zero point of a group is the one whose rounding error is least in an l_p norm with p < 1, which lets
// a few outliers be wrong so that the many are right. Needs no data. Plain C++ on floats: no tensor library.
#include <cstdint>

namespace hqq {

struct Settings {
  int bits = 4;
  int iterations = 20;  // 0: round to nearest between the least and the largest weight
  float p = 0.7F;       // of the norm
  float beta = 10.0F;   // how hard the split of weight and error is held at first; grows by kappa each time
  float kappa = 1.01F;
};

// A weight is (code - zero) * scale.
struct Grid {
  float scale = 1, zero = 0;
};

// Codes of `n` weights, 0 ... 2^bits - 1, one a byte.
Grid quantize_group(const float* weights, int64_t n, const Settings& settings, uint8_t* codes);

// Sum of |weights - dequantized| ^ p.
double error_of(const float* weights, int64_t n, const Grid& grid, const uint8_t* codes, double p);

}  // namespace hqq
