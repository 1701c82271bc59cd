#pragma once
// Which tokens look at which pictures, from where image tokens stand: a token sees the last picture before it in its document, or the last ones where
// several follow each other without a word between.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace tenon::vlm {

// So many tiles of a picture, its first ones.
struct View {
  int64_t picture = 0, tiles = 0;
  friend bool operator==(const View&, const View&) = default;
};

// Tokens of one row that look at the same. Those before their document's first picture are blind: they look at all of its pictures, empty tiles too, as
// transformers does, but their mlp gives nothing. Nothing to look at: padding, and documents without pictures, which these layers do not change.
struct Stretch {
  int64_t row = 0, first = 0, count = 0;
  bool is_blind = false;
  std::vector<View> views;
  friend bool operator==(const Stretch&, const Stretch&) = default;
};

// What tokens that a cache holds looked at, so that later ones go on: for each row, an entry where it changed.
struct Mark {
  int64_t position = 0, segment = 1;
  bool is_image = false, is_blind = false;
  std::vector<View> views;
};
using Marks = std::vector<std::vector<Mark>>;
// Without tokens from `length` on.
void cut_marks(Marks& marks, int64_t length);

// The pictures of one call. Those that stand at an image token come in the order of these tokens.
struct Pictures {
  std::vector<int64_t> tiles;   // that are not empty
  std::vector<bool> is_filler;  // stands at no token; empty: all stand at one
  int64_t per_row = 0;          // a batch as transformers fills it up: so many in each row; 0: as many as there are tokens
  int64_t first = 0;            // number of the first one, for they count on over the calls of a cache
  int64_t max_tiles = 0;        // empty ones included
  int64_t image_token = 0;

  int64_t count() const { return static_cast<int64_t>(tiles.size()); }
};

// ids, segments: [rows, tokens], segments may be undefined: all 1. `marks`: null without a cache; else brought up to date. The stretches come row by row,
// without gaps; there are none when nobody sees a picture. Error(Data) when image tokens and pictures do not match; without pictures image tokens are
// tokens like others.
std::vector<Stretch> look(const at::Tensor& ids, const at::Tensor& segments, int64_t past, const Pictures& pictures, Marks* marks);

// As one tensor, int64 on the CPU, that waits in a State.
at::Tensor pack(const std::vector<Stretch>& stretches);
std::vector<Stretch> unpack(const at::Tensor& packed);

}  // namespace tenon::vlm
