#include "neftune.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <doctest/doctest.h>

#include <cmath>

using namespace tenon;

TEST_CASE("noise of the stated magnitude while training, none otherwise") {
  Seams seams;
  neftune::Neftune patch({.noise_alpha = 5});
  CHECK(!patch.on_seams(seams));  // no such seam
  seams.embedding.set_default("embed", [](const EmbeddingArgs&) { return at::ones({2, 50, 20}); });
  CHECK(!neftune::Neftune({.noise_alpha = 0}).on_seams(seams));
  CHECK(patch.on_seams(seams));
  const at::Tensor trained = seams.embedding({}) - 1;
  const double bound = 5 / std::sqrt(50.0 * 20);
  CHECK(trained.abs().max().item<double>() <= bound);
  CHECK(trained.abs().max().item<double>() > 0.9 * bound);
  // 2,000 uniform values: the mean's deviation is bound / sqrt(3 * 2000), five of them.
  CHECK(std::abs(trained.mean().item<double>()) < 5 * bound / std::sqrt(6000.0));
  at::NoGradGuard no_grad;
  CHECK(at::equal(seams.embedding({}), at::ones({2, 50, 20})));
}
