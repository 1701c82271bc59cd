#include "qwen_grid.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "tenon/error.h"

namespace tenon::vlm {

namespace {
constexpr int64_t kMaxGridSide = 1 << 20, kMaxPatches = int64_t{1} << 40;
}

std::vector<Grid> read_grids(const at::Tensor& thw, int64_t merge, const char* name) {
  if (thw.dim() != 2 || thw.size(1) != 3 || thw.scalar_type() != at::kLong)
    fail(ErrorCode::Data, name, " is ", thw.sizes(), " of ", c10::toString(thw.scalar_type()),
         ", expected [media, 3] of int64: frames, rows, columns");
  const at::Tensor rows = thw.cpu().contiguous();
  const int64_t* values = rows.const_data_ptr<int64_t>();
  std::vector<Grid> grids;
  for (int64_t i = 0; i < rows.size(0); ++i, values += 3) {
    const Grid grid{values[0], values[1], values[2]};
    const bool is_sound = std::all_of(values, values + 3, [](int64_t side) { return side >= 1 && side <= kMaxGridSide; });
    if (!is_sound || grid.rows * grid.columns > kMaxPatches / grid.frames || grid.rows % merge || grid.columns % merge)
      fail(ErrorCode::Data, name, "[", i, "] is ", grid.frames, " x ", grid.rows, " x ", grid.columns,
           ", expected frames, and rows and columns that are multiples of ", merge);
    grids.push_back(grid);
  }
  return grids;
}

at::Tensor patch_positions(const std::vector<Grid>& grids, int64_t merge) {
  int64_t count = 0;
  for (const Grid& grid : grids) count += grid.patches();
  at::Tensor positions = at::empty({2, count}, at::kLong);
  int64_t* row = positions.mutable_data_ptr<int64_t>();
  int64_t* column = row + count;
  for (const Grid& grid : grids)
    for (int64_t f = 0; f < grid.frames; ++f)
      for (int64_t y = 0; y < grid.rows; y += merge)
        for (int64_t x = 0; x < grid.columns; x += merge)
          for (int64_t dy = 0; dy < merge; ++dy)
            for (int64_t dx = 0; dx < merge; ++dx) *row++ = y + dy, *column++ = x + dx;
  return positions;
}

std::vector<int64_t> frame_lengths(const std::vector<Grid>& grids) {
  std::vector<int64_t> lengths;
  for (const Grid& grid : grids) lengths.insert(lengths.end(), static_cast<size_t>(grid.frames), grid.rows * grid.columns);
  return lengths;
}

Windows sort_into_windows(const std::vector<Grid>& grids, int64_t merge, int64_t window) {
  Windows windows;
  int64_t first = 0;  // token of the frame
  for (const Grid& grid : grids) {
    const int64_t rows = grid.rows / merge, columns = grid.columns / merge;
    for (int64_t f = 0; f < grid.frames; ++f, first += rows * columns)
      for (int64_t top = 0; top < rows; top += window)
        for (int64_t left = 0; left < columns; left += window) {
          const int64_t bottom = std::min(top + window, rows), right = std::min(left + window, columns);
          for (int64_t y = top; y < bottom; ++y)
            for (int64_t x = left; x < right; ++x) windows.order.push_back(first + y * columns + x);
          windows.lengths.push_back((bottom - top) * (right - left) * merge * merge);
        }
  }
  return windows;
}

}  // namespace tenon::vlm
