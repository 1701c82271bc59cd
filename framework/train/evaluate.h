#pragma once
// Loss of a model on a data set, without gradients and dropout.
#include <functional>

#include "data/dataset.h"
#include "model/loaded_model.h"

namespace tenon::host {

struct EvalResult {
  double loss = 0;        // mean over all trained tokens (or pairs) of the set
  double perplexity = 0;  // exp(loss)
  int64_t tokens = 0;     // what the mean is over
  double seconds = 0;
};

// With an objective, its loss; without, the negative log-likelihood of the labels. `completion` data is cut into windows of max_length without overlap,
// whose first tokens are not predicted. Rows are taken longest first, so that batches hold little padding.
EvalResult evaluate(LoadedModel& model, Objective* objective, const Dataset& set, int64_t batch_size);

// `host eval`: reads the recipe's eval data and evaluates with the adapters as they are. batch size: of the recipe's [train], else 1.
EvalResult evaluate_recipe(LoadedModel& model, const Recipe& recipe);

}  // namespace tenon::host
