#include "mllama_canvas.h"

#include <algorithm>
#include <cmath>

namespace tenon::vlm {

namespace {

double ratio(int64_t a, int64_t b) { return static_cast<double>(a) / static_cast<double>(b); }

// Of several layouts that scale it alike the one with the fewest tiles.
int64_t best_layout(Size picture, const std::vector<Size>& layouts, int64_t edge) {
  const auto scale = [&](const Size& tiles) {
    return std::min(ratio(tiles.height * edge, picture.height), ratio(tiles.width * edge, picture.width));
  };
  // The least enlargement, else the least reduction.
  double best = 0;
  for (const Size& tiles : layouts) {
    const double s = scale(tiles);
    if (best == 0 || (best >= 1 ? s >= 1 && s < best : s > best)) best = s;
  }
  int64_t chosen = -1;
  for (size_t i = 0; i < layouts.size(); ++i) {
    const auto area = [&](const Size& tiles) { return tiles.height * tiles.width; };
    if (scale(layouts[i]) == best && (chosen < 0 || area(layouts[i]) < area(layouts[static_cast<size_t>(chosen)])))
      chosen = static_cast<int64_t>(i);
  }
  return chosen;
}

}  // namespace

std::vector<Size> tile_layouts(int64_t max_tiles) {
  std::vector<Size> all;
  for (int64_t height = 1; height <= max_tiles; ++height)
    for (int64_t width = 1; height * width <= max_tiles; ++width) all.push_back({height, width});
  return all;
}

Canvas fit_canvas(Size picture, int64_t max_tiles, int64_t edge) {
  const std::vector<Size> layouts = tile_layouts(max_tiles);
  const int64_t best = best_layout(picture, layouts, edge);
  Canvas canvas{.tiles = layouts[static_cast<size_t>(best)], .picture = {}, .ratio_id = best + 1};
  // Not smaller than a tile, not larger than the canvas; in floating point and cut off, as the reference counts.
  const int64_t height = std::clamp(picture.height, edge, canvas.tiles.height * edge);
  const int64_t width = std::clamp(picture.width, edge, canvas.tiles.width * edge);
  const double by_height = ratio(height, picture.height), by_width = ratio(width, picture.width);
  const auto scaled = [](int64_t length, double by, int64_t most) {
    return std::min(std::max<int64_t>(1, static_cast<int64_t>(std::floor(static_cast<double>(length) * by))), most);
  };
  canvas.picture =
      by_width < by_height ? Size{scaled(picture.height, by_width, height), width} : Size{height, scaled(picture.width, by_height, width)};
  return canvas;
}

}  // namespace tenon::vlm
