#include "lfm2_vl_processor.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/lt.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include <tuple>

#include "image_file.h"
#include "limits.h"
#include "tenon/error.h"

namespace tenon::vlm {

namespace {

constexpr int64_t kMaxTiles = 1 << 10, kMaxTokens = 1 << 20;

ViewRules read_rules(nn::ConfigReader& reader, const Lfm2VlConfig& config) {
  ViewRules rules;
  rules.splits = reader.flag("do_image_splitting", rules.splits);
  rules.min_tiles = reader.integer("min_tiles", rules.min_tiles, 1, kMaxTiles);
  rules.max_tiles = reader.integer("max_tiles", rules.max_tiles, 1, kMaxTiles);
  rules.tile = reader.integer("tile_size", rules.tile, 1, kMaxImageSize);
  rules.has_thumbnail = reader.flag("use_thumbnail", rules.has_thumbnail);
  rules.min_tokens = reader.integer("min_image_tokens", rules.min_tokens, 1, kMaxTokens);
  rules.max_tokens = reader.integer("max_image_tokens", rules.max_tokens, 1, kMaxTokens);
  rules.tolerance = reader.number("max_pixels_tolerance", rules.tolerance, 0, 1e6);
  for (const auto& [key, own, target] :
       {std::tuple{"encoder_patch_size", config.vision.patch, &rules.patch}, {"downsample_factor", config.factor, &rules.factor}}) {
    *target = reader.integer(key, *target, 1, kMaxImageSize);
    if (*target != own)
      reader.problem(
          concat(key, " is ", *target, ", the model's is ", own, ": preprocessor_config.json and config.json are of different models"));
  }
  if (rules.splits && rules.min_tiles > rules.max_tiles)
    reader.problem(concat("min_tiles is ", rules.min_tiles, ", expected max_tiles (", rules.max_tiles, ") or less"));
  if (rules.splits && rules.tile % rules.token_edge())
    reader.problem(
        concat("tile_size is ", rules.tile, ", expected a multiple of ", rules.token_edge(), ": a token is so many pixels wide"));
  if (!reader.flag("do_pad", true)) reader.problem("do_pad is false: the tower takes views with a mask of their patches, so leave it out");
  return rules;
}

void read_areas(const ProcessorFiles& files, ViewRules& rules) {
  if (files.image_size)
    fail(ErrorCode::Recipe,
         "media.image_size is for models with one size of pictures, this one takes many: set media.min_pixels and media.max_pixels");
  const int64_t area = rules.token_area();
  if (files.min_pixels) rules.min_tokens = (*files.min_pixels + area - 1) / area;
  if (files.max_pixels) rules.max_tokens = *files.max_pixels / area;
  if (rules.max_tokens < 1)
    fail(ErrorCode::Recipe, "media.max_pixels is ", *files.max_pixels, ", expected ", area, " or more: a token is so many pixels");
  if (rules.min_tokens > rules.max_tokens)
    fail(files.min_pixels || files.max_pixels ? ErrorCode::Recipe : ErrorCode::Data, "the least a picture may take is ", rules.min_tokens,
         " tokens (media.min_pixels, min_image_tokens), expected the most (media.max_pixels, max_image_tokens: ", rules.max_tokens,
         ") or less");
}

}  // namespace

Lfm2VlProcessor::Lfm2VlProcessor(const Lfm2VlConfig& config, const ProcessorFiles& files)
    : image_token_(config.image_token), limit_(files.decode_limit), names_(files.folder) {
  steps_.mean = steps_.std = {0.5, 0.5, 0.5};
  steps_.resample = Resample::Bilinear;
  const Value none = Value::table();
  nn::ConfigReader reader(files.preprocessor.is_null() ? none : files.preprocessor);
  read_pixel_steps(reader, steps_);
  rules_ = read_rules(reader, config);
  finish_steps(reader, files);
  read_areas(files, rules_);
  // transformers reads the key no more and writes the marks in any case.
  if (!files.processor.bool_or("use_image_special_tokens", true))
    fail(ErrorCode::Data, files.folder,
         "/processor_config.json: use_image_special_tokens is false, expected true: pictures stand between marks");
  start_ = names_.text_of("image_start_token", "<|image_start|>"), end_ = names_.text_of("image_end_token", "<|image_end|>");
  thumbnail_ = names_.text_of("image_thumbnail_token", "<|img_thumbnail|>");
  const std::string image = names_.text_of("image_token", "<image>");
  if (const int64_t id = names_.id_of(image); id != image_token_)
    fail(ErrorCode::Data, files.folder, ": the token '", image, "' is ", id, " in tokenizer.json, config.json's image_token_id is ",
         image_token_, ": the files are of different models");
}

std::vector<int64_t> Lfm2VlProcessor::tokens(const Medium& medium) const {
  const ImageHeader header = read_image_header(medium.file, limit_);
  const Views views = with_context(medium.file, [&] { return choose_views({header.height, header.width}, rules_); });
  const auto count = [&](Size size) { return static_cast<size_t>(size.height / rules_.token_edge() * (size.width / rules_.token_edge())); };
  std::vector<int64_t> ids;
  const auto mark = [&](const std::string& text) { ids.push_back(names_.id_of(text)); };
  mark(start_);
  if (views.is_tiled())
    for (int64_t row = 1; row <= views.tiles.height; ++row)
      for (int64_t column = 1; column <= views.tiles.width; ++column) {
        mark(concat("<|img_row_", row, "_col_", column, "|>"));
        ids.insert(ids.end(), count({rules_.tile, rules_.tile}), image_token_);
      }
  if (views.is_tiled() && rules_.has_thumbnail) mark(thumbnail_);
  if (!views.is_tiled() || rules_.has_thumbnail) ids.insert(ids.end(), count(views.whole), image_token_);
  mark(end_);
  return ids;
}

std::vector<at::Tensor> Lfm2VlProcessor::cut(const at::Tensor& rgb, const Views& views) const {
  std::vector<at::Tensor> all;
  if (views.is_tiled()) {
    const int64_t edge = rules_.tile;
    const at::Tensor large = resize(rgb, {views.tiles.height * edge, views.tiles.width * edge}, steps_.resample);
    for (int64_t row = 0; row < views.tiles.height; ++row)
      for (int64_t column = 0; column < views.tiles.width; ++column)
        all.push_back(large.narrow(1, row * edge, edge).narrow(2, column * edge, edge));
  }
  if (!views.is_tiled() || rules_.has_thumbnail) all.push_back(resize(rgb, views.whole, steps_.resample));
  return all;
}

std::map<std::string, at::Tensor> Lfm2VlProcessor::load(const std::vector<Medium>& media) const {
  std::vector<at::Tensor> pixels;
  std::vector<int64_t> shapes, lengths;
  const int64_t most = rules_.max_patches();
  for (const Medium& medium : media) {
    const at::Tensor rgb = read_image(medium.file, limit_);
    const Views views = with_context(medium.file, [&] { return choose_views({rgb.size(1), rgb.size(2)}, rules_); });
    for (const at::Tensor& view : cut(rgb, views)) {
      const at::Tensor patches = cut_patches(normalize(view, steps_), rules_.patch);
      shapes.insert(shapes.end(), {view.size(1) / rules_.patch, view.size(2) / rules_.patch});
      lengths.push_back(patches.size(0));
      pixels.push_back(at::constant_pad_nd(patches, {0, 0, 0, most - patches.size(0)}, 0));
    }
  }
  const at::Tensor mask = at::lt(at::arange(most, at::kLong).unsqueeze(0), at::tensor(lengths, at::kLong).unsqueeze(1));
  return {{"pixel_values", at::stack(pixels)},
          {"pixel_attention_mask", mask.to(at::kInt)},
          {"spatial_shapes", at::tensor(shapes, at::kLong).view({-1, 2})}};
}

}  // namespace tenon::vlm
