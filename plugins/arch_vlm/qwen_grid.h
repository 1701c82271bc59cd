#pragma once
// Pictures as grids of patches: where each patch stands, and which ones see each other. Patches come in the processor's order: squares of merge x merge
// patches, which become one token, row by row.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace tenon::vlm {

struct Grid {
  int64_t frames = 1, rows = 0, columns = 0;  // of patches
  int64_t patches() const { return frames * rows * columns; }
  int64_t tokens(int64_t merge) const { return patches() / (merge * merge); }
};

// From image_grid_thw, [media, 3] int64. Error(Data) naming `name` for what is no grid, or cannot be merged.
std::vector<Grid> read_grids(const at::Tensor& thw, int64_t merge, const char* name);

// -> [2, patches] int64: row and column of each patch within its frame.
at::Tensor patch_positions(const std::vector<Grid>& grids, int64_t merge);

// Patches of each frame: they see each other and no others.
std::vector<int64_t> frame_lengths(const std::vector<Grid>& grids);

// Tokens sorted into windows of `window` tokens a side.
struct Windows {
  std::vector<int64_t> order;    // place in the sorted sequence -> token
  std::vector<int64_t> lengths;  // of the windows, in patches
};
Windows sort_into_windows(const std::vector<Grid>& grids, int64_t merge, int64_t window);

}  // namespace tenon::vlm
