#include "neftune.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>

#include <cmath>

namespace tenon::neftune {

OptionTable option_table() {
  return tenon::option_table<Options>({
      option(&Options::noise_alpha, "noise_alpha", "Noise is uniform within noise_alpha / sqrt(tokens of a row * width).", range(0)),
  });
}

bool Neftune::on_seams(Seams& seams) {
  if (!seams.embedding.is_set() || options_.noise_alpha == 0) return false;
  seams.embedding.wrap("neftune", [alpha = options_.noise_alpha](const EmbeddingArgs& args, const auto& next) {
    const at::Tensor embedded = next(args);
    // Without a graph nothing is trained: generation, evaluation.
    if (!at::GradMode::is_enabled()) return embedded;
    const double magnitude = alpha / std::sqrt(static_cast<double>(embedded.size(1) * embedded.size(2)));
    return embedded + at::empty_like(embedded.detach()).uniform_(-magnitude, magnitude);
  });
  return true;
}

}  // namespace tenon::neftune
