#pragma once
// multi_modal_projector: two layers with an activation between, from a tower's width to the text model's. LLaVA's, LFM2-VL's, Voxtral's.
#include <string>

#include "part_builder.h"
#include "tenon/architecture.h"

namespace tenon::vlm {

inline constexpr const char* kProjectorPath = "model.multi_modal_projector";
// As files of transformers 4 and the modules of transformers 5 call it.
inline const Prefixes kProjectorFiles = {"multi_modal_projector.", "model.multi_modal_projector."};

struct ProjectorSpec {
  std::string path = kProjectorPath;
  Prefixes files = kProjectorFiles;
  int64_t in = 0, width = 0, out = 0;
  bool bias = true;
  bool has_norm = false;  // a layer norm over what comes in
  int64_t block = 0;      // of stack 0, the tower's: where it runs or, where it runs behind them, the last
  int first_stage = 0;    // in that block
};

void add_projector(Blueprint& blueprint, const ProjectorSpec& spec);

class Projector {
 public:
  // `parts` outlives it. `activation`: a name that nn::has_activation() knows.
  Projector(Parts& parts, const std::string& path, std::string activation, bool has_norm);
  at::Tensor operator()(const at::Tensor& features) const;

 private:
  std::string activation_;
  Slot *linear_1_, *linear_2_;
  Dense *norm_ = nullptr, *norm_bias_ = nullptr;
};

}  // namespace tenon::vlm
