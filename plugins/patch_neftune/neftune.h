#pragma once
// [[patch]] type = "neftune": uniform noise on the token embeddings while training (NEFTune, arXiv:2310.05914), of magnitude noise_alpha / sqrt(T * width).
#include "tenon/options.h"
#include "tenon/patch.h"

namespace tenon::neftune {

struct Options {
  double noise_alpha = 5;
};
OptionTable option_table();

class Neftune final : public Patch {
 public:
  explicit Neftune(const Options& options) : options_(options) {}
  bool on_seams(Seams& seams) override;

 private:
  Options options_;
};

}  // namespace tenon::neftune
