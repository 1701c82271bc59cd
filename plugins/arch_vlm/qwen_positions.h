#pragma once
// Positions of three axes: a text token stands at the same number on all of them, the tokens of a picture at its time, row and column, counted from where
// it begins. What follows a picture begins behind its longer side.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "qwen_grid.h"

namespace tenon::vlm {

// Media of one kind, in the order of their tokens.
struct TokenGrids {
  const char* kind = "image";
  int64_t token = 0;
  std::vector<Grid> grids;
  std::vector<float> frame_steps;  // by medium: positions from one frame to the next; empty: 1
  int64_t merge = 1;
};

// One row's tokens in a cache: their segment, and the position behind the largest one of it so far.
struct HeldToken {
  int64_t segment = 0, next = 0;
};
using Held = std::vector<std::vector<HeldToken>>;  // by row

struct Placement {
  at::Tensor positions;            // [axes, B, T] int64 on the CPU; one axis where three would be equal
  std::vector<at::Tensor> places;  // by kind: the media's tokens in the flattened [B * T]
};

// ids: [B, T] int64; segments: the same shape, 0 for padding, or undefined: all 1. `held`: of the tokens before these, which the new ones are added to; null
// without a cache. A token that continues a text whose pictures are held stands behind the largest position, as transformers' rope_deltas put it.
// Error(Data) where tokens and media do not match.
Placement place_media(const at::Tensor& ids, const at::Tensor& segments, const std::vector<TokenGrids>& kinds, Held* held);

// The same for positions that the caller gives, [axes, B, T]: adds them to `held`.
void hold_positions(const at::Tensor& positions, const at::Tensor& segments, Held& held);

}  // namespace tenon::vlm
