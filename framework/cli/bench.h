#pragma once
// `host __bench RECIPE [load] [decode] [train] [kernels] [vision=MESSAGES.json]`: the host's side of bench/run.py. Not for users: what it prints may change.
#include <string>
#include <vector>

#include "plugins/registry.h"
#include "recipe/recipe.h"

namespace tenon::host {

// Does the same work as the scripts of the peers and prints one line for each part on stdout:
//   load 2.31 s, weights 745 MB, peak RSS 1012 MB
//   decode 48.21 token/s                            (batch 1, prompt of 32 tokens, tokens 17 to 48)
//   preprocess 31.20 image/s      (one by one, from their files: the pictures of all conversations in the file of `vision`)
//   prefill 2.105 s, 604 tokens   (its first conversation until the first token, reading the picture included), and its line of decode
//   step 0: 5.31 s, 96.4 token/s, peak RSS 2311 MB  (four optimizer steps on one row of 512 tokens)
//   kernel m=1: 136.2 us, 6.12 MB, 44.9 GB/s, 92% of memory   (before the model is loaded; the recipe's first quantizer, or a dense bfloat16 weight)
// `train` loads with the recipe's adapters, trainable; Error(Usage) for unknown work.
void bench(const Recipe& recipe, Registry& registry, const std::vector<std::string>& work);

// The part of it that needs no model: products of 1 to 16 rows with one weight, and dequantizing it: bytes moved, and the share of the speed at which
// the same threads read memory.
void bench_kernels(const Recipe& recipe, Registry& registry);

}  // namespace tenon::host
