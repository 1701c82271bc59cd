#include "lfm2_vl_views.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tenon/error.h"

namespace tenon::vlm {

namespace {

double of(int64_t number) { return static_cast<double>(number); }

// Ties go to the even number, as Python rounds.
int64_t nearest(int64_t number, int64_t step) { return static_cast<int64_t>(std::nearbyint(of(number) / of(step))) * step; }

// Whole tokens a side, an area within the bounds, the shape kept.
Size whole_size(Size picture, const ViewRules& rules) {
  const int64_t edge = rules.token_edge(), least = rules.min_tokens * rules.token_area(), most = rules.max_tokens * rules.token_area();
  const double height = of(picture.height), width = of(picture.width), step = of(edge);
  Size size{std::max(edge, nearest(picture.height, edge)), std::max(edge, nearest(picture.width, edge))};
  if (size.height * size.width > most) {
    const double by = std::sqrt(height * width / of(most));
    const auto fit = [&](double side) { return std::max(edge, static_cast<int64_t>(std::floor(side / by / step)) * edge); };
    size = {fit(height), fit(width)};
  } else if (size.height * size.width < least) {
    const double by = std::sqrt(of(least) / (height * width));
    const auto fit = [&](double side) { return static_cast<int64_t>(std::ceil(side * by / step)) * edge; };
    size = {fit(height), fit(width)};
  }
  return size;
}

bool is_large(Size picture, const ViewRules& rules) {
  const auto side = [&](int64_t pixels) { return std::max(rules.patch, nearest(pixels, rules.token_edge())); };
  return of(side(picture.height) * side(picture.width)) > of(rules.max_tokens * rules.token_area()) * rules.tolerance;
}

// The grid whose shape is nearest, grids of few tiles first; of equally near ones a later one if the picture fills half of it.
Size choose_grid(Size picture, const ViewRules& rules) {
  const double shape = of(picture.width) / of(picture.height), area = of(picture.width * picture.height);
  Size best{1, 1};
  double nearest = std::numeric_limits<double>::infinity();
  for (int64_t tiles = rules.min_tiles; tiles <= rules.max_tiles; ++tiles)
    for (int64_t columns = 1; columns <= tiles; ++columns) {
      if (tiles % columns) continue;
      const Size grid{tiles / columns, columns};
      const double off = std::abs(shape - of(grid.width) / of(grid.height));
      const bool is_filled = area > 0.5 * of(rules.tile * rules.tile * tiles);
      if (off < nearest || (off == nearest && is_filled)) best = grid;
      nearest = std::min(nearest, off);
    }
  return best;
}

}  // namespace

int64_t ViewRules::max_patches() const {
  const int64_t side = tile / patch;
  return std::max(max_tokens * factor * factor, splits ? side * side : 0);
}

Views choose_views(Size picture, const ViewRules& rules) {
  Views views{.whole = whole_size(picture, rules)};
  const bool can_split = rules.splits && !(rules.min_tiles == 1 && rules.max_tiles == 1);
  if (can_split && is_large(picture, rules)) views.tiles = choose_grid(picture, rules);
  const bool shows_whole = !views.is_tiled() || rules.has_thumbnail;
  const int64_t patches = views.whole.height / rules.patch * (views.whole.width / rules.patch);
  if (shows_whole && patches > rules.max_patches())
    fail(ErrorCode::Data, "a picture of ", picture.width, " x ", picture.height, " is a strip that would become ", patches,
         " patches, expected ", rules.max_patches(), " or fewer: cut it");
  return views;
}

at::Tensor cut_patches(const at::Tensor& rgb, int64_t patch) {
  const int64_t rows = rgb.size(1) / patch, columns = rgb.size(2) / patch;
  return rgb.reshape({3, rows, patch, columns, patch}).permute({1, 3, 2, 4, 0}).reshape({rows * columns, patch * patch * 3});
}

}  // namespace tenon::vlm
