#pragma once
// Chooses the next token of one sequence. What is done to its logits, in the order of transformers: repetition penalty, a ban on end tokens while the
// sequence is too short, temperature, top-k, top-p, min-p; then the best token, or a draw.
#include <cstdint>
#include <span>
#include <vector>

#include "recipe/recipe.h"

namespace tenon::host {

// SplitMix64 over a state made of seed and stream: each prompt has its own stream, so a sample does not depend on what else is in its batch.
class RandomStream {
 public:
  RandomStream(uint64_t seed, uint64_t stream);
  uint64_t next();
  double uniform();  // [0, 1), 53 bits

 private:
  uint64_t state_;
};

class Sampler {
 public:
  // prompt: counts for the repetition penalty, as in transformers.
  Sampler(const GenerateSection& settings, std::span<const int64_t> prompt, uint64_t stream);

  // Writes over the logits. `banned` tokens are not chosen. Error(Internal) when a logit is NaN or all are -inf.
  int64_t choose(std::span<float> logits, std::span<const int64_t> banned = {});

 private:
  void penalize(std::span<float> logits) const;
  void remember(int64_t id);
  void keep_top_k(std::span<float> logits);
  void keep_top_p(std::span<float> logits);
  int64_t draw(std::span<const float> logits);

  const GenerateSection settings_;
  bool is_greedy_;
  RandomStream random_;
  std::vector<int64_t> seen_;  // each id once, when there is a penalty
  std::vector<bool> has_seen_;
  std::vector<float> values_;  // scratch, kept between steps
  std::vector<int64_t> order_;
};

}  // namespace tenon::host
