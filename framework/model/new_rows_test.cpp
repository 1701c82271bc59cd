#include "model/new_rows.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cov.h>
#include <ATen/ops/diag.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/randn.h>
#include <doctest/doctest.h>

#include <cmath>

using namespace tenon;
using namespace tenon::host;

namespace {
constexpr int64_t kStored = 200, kWidth = 6;

// Rows of unequal spread, mixed with each other, away from zero.
at::Tensor stored_rows() {
  at::manual_seed(3);
  return at::matmul(at::randn({kStored, kWidth}), at::randn({kWidth, kWidth})) + 2;
}

at::Tensor grown(const at::Tensor& stored, int64_t count, NewRows how, const std::string& path = "embed") {
  at::Tensor weight = at::cat({stored, at::empty({count, stored.size(1)}, stored.options())}, 0);
  draw_new_rows(weight, count, how, 0.02, path);
  CHECK(weight.narrow(0, 0, stored.size(0)).equal(stored));
  return weight.narrow(0, stored.size(0), count);
}
}  // namespace

TEST_CASE("new rows lie around the mean, with a billionth of the covariance") {
  const at::Tensor stored = stored_rows(), mean = at::mean(stored, {0});
  const at::Tensor expected = at::cov(stored.t(), /*correction=*/0) * 1e-9;
  // Few rows at once and many take different ways; both must have this distribution.
  at::Tensor few;
  for (int i = 0; i < 500; ++i) {
    const at::Tensor drawn = grown(stored.to(at::kDouble).to(at::kFloat), 6, NewRows::Mean, "embed" + std::to_string(i));
    few = few.defined() ? at::cat({few, drawn}, 0) : drawn;
  }
  for (const at::Tensor& drawn : {few, grown(stored, 3000, NewRows::Mean)}) {
    const at::Tensor off = drawn.to(at::kDouble) - mean.to(at::kDouble);
    // The rows' own spread is some 1e-4; float32 near 2 rounds to 1e-7.
    CHECK(off.abs().max().item<double>() < 1e-3);
    const at::Tensor covariance = at::cov(off.t(), 0), scale = expected.to(at::kDouble).diag().sqrt();
    const at::Tensor correlation = (covariance - expected.to(at::kDouble)) / scale.unsqueeze(0) / scale.unsqueeze(1);
    // 3,000 samples: each entry's deviation is at most sqrt(2 / 3000) = 0.026; four of them.
    CHECK(correlation.abs().max().item<double>() < 0.11);
  }
}

TEST_CASE("no more rows than columns, whose covariance is singular: the mean itself") {
  const at::Tensor stored = stored_rows().narrow(0, 0, kWidth);
  const at::Tensor drawn = grown(stored, 3, NewRows::Mean);
  CHECK((drawn - at::mean(stored, {0})).abs().max().item<double>() < 1e-6);
}

TEST_CASE("around zero with the initializer's range, and always the same for the same path") {
  const at::Tensor stored = stored_rows();
  const at::Tensor drawn = grown(stored, 3000, NewRows::Normal);
  CHECK(drawn.std().item<double>() == doctest::Approx(0.02).epsilon(0.05));
  CHECK(drawn.abs().max().item<double>() < 0.2);
  CHECK(grown(stored, 5, NewRows::Mean).equal(grown(stored, 5, NewRows::Mean)));
  CHECK(!grown(stored, 5, NewRows::Mean).equal(grown(stored, 5, NewRows::Mean, "head")));
}
