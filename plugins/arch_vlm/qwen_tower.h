#pragma once
// Qwen2-VL's and Qwen2.5-VL's vision transformer: patches of all media in one sequence, which see those of their frame, or of their window.
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "part_builder.h"
#include "qwen_config.h"
#include "qwen_grid.h"
#include "tenon/architecture.h"
#include "tenon/nn/attention.h"

namespace tenon::vlm {

// Adds the tower under `path` as a new stack, part "vision", and the merger behind it, part "projector". What lies before the layers belongs to the first
// of them, what lies behind to the last.
void add_qwen_tower(Blueprint& blueprint, const QwenVisionConfig& config, const std::string& path, const Prefixes& files);

// Of the media of one batch: how the tower's sequence is ordered.
struct TowerLayout {
  at::Tensor cos, sin;         // [1, patches, head_dim] float32, in the tower's order
  std::vector<int64_t> order;  // place in the tower's sequence -> token; empty: as they come
  at::Tensor frames, windows;  // lengths of what sees itself, int64 on the CPU
};

class QwenTower {
 public:
  // `parts` outlives the tower. `stack`: of its layers in the blueprint.
  QwenTower(QwenVisionConfig config, Parts& parts, const std::string& path, int stack);

  TowerLayout layout(const std::vector<Grid>& grids) const;
  // patches: [patches, channels * temporal_patch * patch * patch] -> [1, patches, hidden], in the layout's order.
  at::Tensor embed(const at::Tensor& patches, const TowerLayout& layout) const;
  at::Tensor layer(int64_t i, const at::Tensor& hidden, const TowerLayout& layout) const;
  // [1, patches, hidden] -> [1, tokens, out], in the same order.
  at::Tensor merge(const at::Tensor& hidden) const;
  const QwenVisionConfig& config() const { return config_; }

 private:
  struct Norm {
    Dense *weight = nullptr, *bias = nullptr;
  };
  struct Layer {
    Norm before_attention, before_mlp;
    Slot *qkv = nullptr, *out = nullptr;
    Slot *gate = nullptr, *up = nullptr, *down = nullptr;  // without a gate: up and down
    at::Device device = at::kCPU;
  };
  at::Tensor norm(const at::Tensor& x, const Norm& norm) const;
  at::Tensor attention(const Layer& layer, const at::Tensor& x, const TowerLayout& layout, const at::Tensor& lengths) const;
  at::Tensor mlp(const Layer& layer, const at::Tensor& x) const;

  QwenVisionConfig config_;
  Precision precision_;
  Dense* patches_;
  std::vector<Layer> layers_;
  Norm merger_norm_;
  Slot *merger_up_, *merger_down_;
  nn::Attention attention_;
};

}  // namespace tenon::vlm
