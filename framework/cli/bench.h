#pragma once
// `host __bench RECIPE [load] [decode] [train]`: the host's side of bench/run.py. Not for users: what it prints may change.
#include <string>
#include <vector>

#include "plugins/registry.h"
#include "recipe/recipe.h"

namespace tenon::host {

// Does the same work as the scripts of the peers and prints one line for each part on stdout:
//   load 2.31 s, weights 745 MB, peak RSS 1012 MB
//   decode 48.21 token/s                            (batch 1, prompt of 32 tokens, tokens 17 to 48)
//   step 0: 5.31 s, 96.4 token/s, peak RSS 2311 MB  (four optimizer steps on one row of 512 tokens)
// `train` loads with the recipe's adapters, trainable; Error(Usage) for unknown work.
void bench(const Recipe& recipe, Registry& registry, const std::vector<std::string>& work);

}  // namespace tenon::host
