#pragma once
// multi_modal_projector: two layers with an activation between, from a tower's width to the text model's. LLaVA's and Voxtral's.
#include <ATen/core/Tensor.h>

#include <string>

#include "tenon/architecture.h"

namespace tenon::vlm {

struct ProjectorShape {
  int64_t in = 0, out = 0;
  bool bias = true;
};

// Adds its slots, part "projector", to the last block of the stack that is there last: it runs where the tower ends.
void add_projector(Blueprint& blueprint, const ProjectorShape& shape);

class Projector {
 public:
  // `parts` outlives it.
  Projector(Parts& parts, std::string activation);
  at::Tensor operator()(const at::Tensor& features) const;

 private:
  std::string activation_;
  Slot *linear_1_, *linear_2_;
};

}  // namespace tenon::vlm
