#pragma once
// How a picture is laid onto tiles: the canvas of whole tiles that suits it, and its size there.
#include <vector>

#include "image_steps.h"

namespace tenon::vlm {

// Numbers of tiles in rows and columns, all that hold at most `max_tiles`; a picture's aspect ratio id is its place here, from 1.
std::vector<Size> tile_layouts(int64_t max_tiles);

struct Canvas {
  Size tiles;    // rows and columns
  Size picture;  // in pixels, at the canvas's upper left
  int64_t ratio_id = 0;
};
Canvas fit_canvas(Size picture, int64_t max_tiles, int64_t edge);

}  // namespace tenon::vlm
