#pragma once
// LFM2-VL: which views a picture becomes. Sizes are compared and rounded as transformers does it.
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "image_steps.h"

namespace tenon::vlm {

// Of preprocessor_config.json, absent keys as the processor class has them.
struct ViewRules {
  int64_t patch = 16, factor = 2;  // pixels a patch, patches a token: of a side
  bool splits = true;              // large pictures are cut into tiles
  int64_t min_tiles = 2, max_tiles = 10, tile = 512;
  bool has_thumbnail = true;  // behind tiles, the whole picture
  int64_t min_tokens = 64, max_tokens = 256;
  double tolerance = 2;

  int64_t token_edge() const { return patch * factor; }
  int64_t token_area() const { return token_edge() * token_edge(); }
  // Patches that a view is padded to.
  int64_t max_patches() const;
};

struct Views {
  Size whole;        // of the view of the whole picture, in pixels
  Size tiles{1, 1};  // rows and columns; one: the whole view alone
  bool is_tiled() const { return tiles.height * tiles.width > 1; }
};

// Error(Data) for a strip, which no size within the bounds is like.
Views choose_views(Size picture, const ViewRules& rules);

// [3, height, width] -> [rows * columns, patch * patch * 3], row by row, the colours of a pixel side by side.
at::Tensor cut_patches(const at::Tensor& rgb, int64_t patch);

}  // namespace tenon::vlm
