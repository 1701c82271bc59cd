#include "mllama_processor.h"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "image_file.h"
#include "mllama_canvas.h"
#include "tenon/error.h"

namespace tenon::vlm {

namespace {

constexpr int64_t kClassEdge = 224, kClassTiles = 4;  // where a file is silent

int64_t read_edge(nn::ConfigReader& reader) {
  const Value* size = reader.config().find_set("size");
  if (!size) return kClassEdge;
  if (size->is_int() && size->as_int() >= 1) return size->as_int();
  nn::ConfigReader inner(*size);
  const int64_t height = inner.integer("height", 0, 1, 1 << 13), width = inner.integer("width", 0, 1, 1 << 13);
  if (inner.ok() && height == width && height > 0) return height;
  reader.problem(concat("size is ", nn::ConfigReader::show(*size), ", expected {height, width}, both equal"));
  return kClassEdge;
}

}  // namespace

MllamaProcessor::MllamaProcessor(const MllamaConfig& config, const ProcessorFiles& files)
    : image_token_(config.image_token), edge_(config.vision.image_size), max_tiles_(config.vision.max_tiles), limit_(files.decode_limit) {
  if (files.image_size || files.min_pixels || files.max_pixels)
    fail(ErrorCode::Recipe,
         "media.image_size, media.min_pixels and media.max_pixels do not change this model's pictures, which are cut into tiles of its "
         "tower's size: leave them out");
  const Value none = Value::table();
  nn::ConfigReader reader(files.preprocessor.is_null() ? none : files.preprocessor);
  steps_.resample = Resample::Bilinear;
  steps_.mean = steps_.std = {0.5, 0.5, 0.5};
  read_pixel_steps(reader, steps_);
  if (!steps_.resizes) reader.problem("do_resize is false: this processor has to lay pictures onto tiles, expected true");
  if (!reader.flag("do_pad", true)) reader.problem("do_pad is false: this processor has to fill tiles, expected true");
  // A folder without the file: what fits the tower.
  const bool is_silent = files.preprocessor.is_null();
  const int64_t edge = is_silent ? edge_ : read_edge(reader);
  const int64_t tiles = is_silent ? max_tiles_ : reader.integer("max_image_tiles", kClassTiles, 1, 64);
  if (edge != edge_ || tiles != max_tiles_)
    reader.problem(concat("size and max_image_tiles are ", edge, " and ", tiles, ", the tower takes at most ", max_tiles_, " tiles of ",
                          edge_, " pixels: preprocessor_config.json and config.json are of different models"));
  if (const auto layouts = static_cast<int64_t>(tile_layouts(tiles).size()); layouts > config.vision.aspect_ratios)
    reader.problem(concat("max_image_tiles is ", tiles, ", which makes ", layouts,
                          " aspect ratios, config.json's supported_aspect_ratios are ", config.vision.aspect_ratios));
  finish_steps(reader, files);
}

std::vector<int64_t> MllamaProcessor::tokens(const Medium& medium) const {
  read_image_header(medium.file, limit_);
  return {image_token_};
}

std::map<std::string, at::Tensor> MllamaProcessor::load(const std::vector<Medium>& media) const {
  const auto count = static_cast<int64_t>(media.size());
  const at::Tensor pixels = at::zeros({count, max_tiles_, 3, edge_, edge_}, at::kFloat), mask = at::zeros({count, max_tiles_}, at::kLong);
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < count; ++i) {
    const at::Tensor rgb = read_image(media[static_cast<size_t>(i)].file, limit_);
    const Canvas canvas = fit_canvas({rgb.size(1), rgb.size(2)}, max_tiles_, edge_);
    const int64_t rows = canvas.tiles.height, columns = canvas.tiles.width;
    const at::Tensor whole = at::constant_pad_nd(resize(rgb, canvas.picture, steps_.resample),
                                                 {0, columns * edge_ - canvas.picture.width, 0, rows * edge_ - canvas.picture.height}, 0);
    const at::Tensor tiles = normalize(whole, steps_).view({3, rows, edge_, columns, edge_}).permute({1, 3, 0, 2, 4});
    pixels.select(0, i).narrow(0, 0, rows * columns).copy_(tiles.reshape({rows * columns, 3, edge_, edge_}));
    mask.select(0, i).narrow(0, 0, rows * columns).fill_(1);
    ids.push_back(canvas.ratio_id);
  }
  return {{"pixel_values", pixels}, {"aspect_ratio_ids", at::tensor(ids, at::kLong)}, {"aspect_ratio_mask", mask}};
}

}  // namespace tenon::vlm
