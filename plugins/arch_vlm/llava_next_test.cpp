// LLaVA-NeXT: which size a picture gets, how its views are put together, what is refused. Parity is tests/parity/test_vlm_next.py.
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <doctest/doctest.h>

#include <functional>

#include "llava_config.h"
#include "llava_next_processor.h"
#include "llava_tiles.h"
#include "tenon/error.h"

namespace tenon::vlm {
namespace {

const std::vector<Size> kSizes = {{336, 672}, {672, 336}, {672, 672}, {1008, 336}, {336, 1008}};

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

Value config(std::initializer_list<Value::Entry> extra = {}) {
  Value vision = Value::table(), all = Value::table();
  vision.set("hidden_size", 8), vision.set("intermediate_size", 12), vision.set("num_hidden_layers", 2),
      vision.set("num_attention_heads", 2);
  vision.set("image_size", 8), vision.set("patch_size", 4);
  all.set("vision_config", vision), all.set("text_config", Value::table());
  all.set("image_grid_pinpoints", Value::List{Value::List{8, 16}, Value::List{16, 16}});
  for (const auto& [key, value] : extra) all.set(key, value);
  return all;
}

TEST_CASE("the size that keeps most and wastes least is chosen, the first of equals") {
  CHECK(best_resolution({300, 451}, kSizes) == Size{336, 672});
  CHECK(best_resolution({1000, 300}, kSizes) == Size{1008, 336});
  CHECK(best_resolution({640, 640}, kSizes) == Size{672, 672});
  CHECK(best_resolution({10, 10}, kSizes) == Size{336, 672});
  CHECK(fitted({300, 451}, {336, 672}) == Size{336, 506});  // 505.12
  CHECK(fitted({100, 1000}, {672, 672}) == Size{68, 672});  // 67.2
}

TEST_CASE("rows and columns that the padding gave are left out, half of them on each side") {
  // 24 x 24 patches a view. 300 x 451 becomes 336 x 505 of 336 x 672: 36 of 48 columns.
  const Tiling wide = tile({300, 451}, kSizes, 336, 24);
  CHECK(wide.tiles == Size{1, 2});
  CHECK(wide.left == 6);
  CHECK(wide.kept == Size{24, 36});
  CHECK(wide.tokens(24) == 576 + 24 * 37);
  const Tiling flat = tile({10, 1000}, kSizes, 336, 24);
  CHECK(flat.tiles == Size{1, 3});
  CHECK(flat.top == 12);
  CHECK(flat.kept == Size{0, 72});
  CHECK(flat.tokens(24) == 576);
}

TEST_CASE("views become lines of the whole picture, each with its end") {
  // 1 x 2 tiles of 2 x 2 patches: the picture's patches counted line by line are 0 to 7.
  const at::Tensor whole = at::full({4, 1}, 100.0), left = at::stack({at::arange(0, 2), at::arange(4, 6)}).view({4, 1}).to(at::kFloat),
                   right = at::stack({at::arange(2, 4), at::arange(6, 8)}).view({4, 1}).to(at::kFloat);
  Tiling tiling{.tiles = {1, 2}, .kept = {2, 4}};
  const at::Tensor newline = at::full({1}, -1.0);
  const at::Tensor packed = pack_views(at::stack({whole, left, right}), tiling, 2, newline).squeeze(1);
  const at::Tensor end = at::full({1}, -1.0), lines = at::arange(8).to(at::kFloat);
  CHECK(packed.equal(at::cat({at::full({4}, 100.0), lines.narrow(0, 0, 4), end, lines.narrow(0, 4, 4), end})));
  tiling.left = 1, tiling.kept = {2, 2};
  CHECK(pack_views(at::stack({whole, left, right}), tiling, 2, newline)
            .squeeze(1)
            .narrow(0, 4, 3)
            .equal(at::cat({lines.narrow(0, 1, 2), end})));
}

TEST_CASE("configs and processors that do not fit together are refused by name") {
  const auto refusal = [&](std::initializer_list<Value::Entry> extra) {
    return error_of([&] { read_llava_config(kLlavaNext, config(extra)); });
  };
  CHECK(refusal({}) == "no error");
  CHECK(refusal({{"image_grid_pinpoints", Value::List{Value::List{8, 12}}}})
            .find("holds [8, 12], expected multiples of vision_config.image_size (8)") != std::string::npos);
  CHECK(refusal({{"image_grid_pinpoints", Value::List{8, 16}}}).find("expected a list of [height, width]") != std::string::npos);
  CHECK(refusal({{"vision_feature_select_strategy", "full"}}).find("vision_feature_select_strategy is 'full', expected 'default'") !=
        std::string::npos);

  const LlavaConfig c = read_llava_config(kLlavaNext, config());
  ProcessorFiles files;
  files.folder = "checkpoint";
  const auto processor = [&] { return error_of([&] { LlavaNextProcessor(c, files); }); };
  CHECK(processor() == "no error");
  files.preprocessor.set("size", Value::Table{{"shortest_edge", 8}});
  CHECK(processor().find("views of 224 x 224 from tiles of 224 pixels, the tower takes 8 x 8") != std::string::npos);
  files.preprocessor.set("crop_size", Value::Table{{"height", 8}, {"width", 8}});
  CHECK(processor().find("image_grid_pinpoints are not those of config.json") != std::string::npos);
  files.preprocessor.set("image_grid_pinpoints", config().at("image_grid_pinpoints"));
  CHECK(processor() == "no error");
  files.max_pixels = 100;
  CHECK(processor().find("media.image_size, media.min_pixels and media.max_pixels do not change") == 0);
}

}  // namespace
}  // namespace tenon::vlm
