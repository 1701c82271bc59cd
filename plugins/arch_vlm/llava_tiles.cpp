#include "llava_tiles.h"

#include <ATen/ops/cat.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace tenon::vlm {

namespace {

double of(int64_t x) { return static_cast<double>(x); }

// int(round(x, 7)): the nearest decimal number with seven places, cut off.
int64_t whole_part(double x) {
  char text[64];
  std::snprintf(text, sizeof text, "%.7f", x);
  return static_cast<int64_t>(std::strtod(text, nullptr));
}

}  // namespace

Size best_resolution(Size picture, const std::vector<Size>& pinpoints) {
  Size best = pinpoints.front();
  int64_t most = 0, least_waste = -1;
  for (const Size& size : pinpoints) {
    const double scale = std::min(of(size.width) / of(picture.width), of(size.height) / of(picture.height));
    const int64_t kept = std::min(static_cast<int64_t>(of(picture.width) * scale) * static_cast<int64_t>(of(picture.height) * scale),
                                  picture.width * picture.height);
    const int64_t waste = size.width * size.height - kept;
    if (kept > most || (kept == most && (least_waste < 0 || waste < least_waste))) most = kept, least_waste = waste, best = size;
  }
  return best;
}

Size fitted(Size picture, Size target) {
  const double by_width = of(target.width) / of(picture.width), by_height = of(target.height) / of(picture.height);
  if (by_width < by_height) return {std::min(static_cast<int64_t>(std::ceil(of(picture.height) * by_width)), target.height), target.width};
  return {target.height, std::min(static_cast<int64_t>(std::ceil(of(picture.width) * by_height)), target.width)};
}

Tiling tile(Size picture, const std::vector<Size>& pinpoints, int64_t edge, int64_t side) {
  const Size best = best_resolution(picture, pinpoints);
  Tiling tiling{.tiles = {best.height / edge, best.width / edge}, .kept = {}};
  const Size grid{tiling.tiles.height * side, tiling.tiles.width * side};
  tiling.kept = grid;
  if (of(picture.width) / of(picture.height) > of(grid.width) / of(grid.height)) {
    tiling.top = (grid.height - whole_part(of(picture.height) * (of(grid.width) / of(picture.width)))) / 2;
    tiling.kept.height = grid.height - 2 * tiling.top;
  } else {
    tiling.left = (grid.width - whole_part(of(picture.width) * (of(grid.height) / of(picture.height)))) / 2;
    tiling.kept.width = grid.width - 2 * tiling.left;
  }
  return tiling;
}

at::Tensor pack_views(const at::Tensor& views, const Tiling& tiling, int64_t side, const at::Tensor& newline) {
  const int64_t width = views.size(2), rows = tiling.tiles.height, columns = tiling.tiles.width;
  const at::Tensor grid = views.narrow(0, 1, rows * columns)
                              .reshape({rows, columns, side, side, width})
                              .transpose(1, 2)
                              .reshape({rows * side, columns * side, width});
  const at::Tensor kept = grid.narrow(0, tiling.top, tiling.kept.height).narrow(1, tiling.left, tiling.kept.width);
  const at::Tensor lines = at::cat({kept, newline.view({1, 1, width}).expand({tiling.kept.height, 1, width})}, 1);
  return at::cat({views.select(0, 0), lines.reshape({-1, width})});
}

}  // namespace tenon::vlm
