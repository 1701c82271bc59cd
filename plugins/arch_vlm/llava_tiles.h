#pragma once
// LLaVA-NeXT: a picture as one small view of the whole and the tiles of a larger one. Sizes are compared and rounded as transformers does it.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "image_steps.h"

namespace tenon::vlm {

// Of the sizes that pictures may be enlarged to, the one that keeps most of this one, and wastes least.
Size best_resolution(Size picture, const std::vector<Size>& pinpoints);

// The picture's size within `target`, its shape kept: one side meets.
Size fitted(Size picture, Size target);

// How a picture's features lie: tiles in rows and columns, of which what only the padding gave is left out again.
struct Tiling {
  Size tiles;                 // rows and columns of tiles
  int64_t top = 0, left = 0;  // the first patch that is kept
  Size kept;                  // rows and columns of patches
  int64_t views() const { return 1 + tiles.height * tiles.width; }
  // With the whole view, and a line's end behind each row.
  int64_t tokens(int64_t side) const { return side * side + kept.height * (kept.width + 1); }
};

// `edge`: of a tile in pixels; `side`: in patches.
Tiling tile(Size picture, const std::vector<Size>& pinpoints, int64_t edge, int64_t side);

// views: [views, side * side, width], the whole one first; newline: [width] -> [tokens, width].
at::Tensor pack_views(const at::Tensor& views, const Tiling& tiling, int64_t side, const at::Tensor& newline);

}  // namespace tenon::vlm
