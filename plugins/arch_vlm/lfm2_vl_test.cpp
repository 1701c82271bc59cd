// LFM2-VL around a text model of a few lines: shapes, where features land, which views a picture becomes, what is refused. Parity is tests/parity/test_vlm_lfm2.py.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/lt.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>

#include "lfm2_vl.h"
#include "lfm2_vl_config.h"
#include "lfm2_vl_model.h"
#include "lfm2_vl_processor.h"
#include "lfm2_vl_views.h"
#include "stub_text.h"
#include "support/errors.h"
#include "support/tiny_model.h"
#include "token_names.h"

namespace tenon::vlm {
namespace {

using testing::contains;
using testing::error_of;

constexpr int64_t kVocab = testing::kStubVocab, kWidth = testing::kStubWidth, kImage = 7, kPatchWidth = 12;

Blueprint text_blueprint(const Value& config) {
  CHECK(config.bool_or("tie_word_embeddings", false));
  return testing::stub_blueprint("lfm2");
}

using Entries = std::initializer_list<Value::Entry>;

Value config(Entries extra = {}, Entries vision_extra = {}) {
  Value vision = Value::table(), all = Value::table();
  vision.set("hidden_size", 8), vision.set("intermediate_size", 12), vision.set("num_hidden_layers", 2);
  vision.set("num_attention_heads", 2), vision.set("patch_size", 2), vision.set("num_patches", 9), vision.set("vision_use_head", false);
  for (const auto& [key, value] : vision_extra) vision.set(key, value);
  all.set("vision_config", vision), all.set("image_token_id", kImage), all.set("projector_hidden_size", 10);
  for (const auto& [key, value] : extra) all.set(key, value);
  return all;
}

struct Lfm2Vl {
  testing::StubBackbones<> backbones{"lfm2", text_blueprint};
  Lfm2VlArchitecture architecture;
  Lfm2Vl() { architecture.use(backbones); }
  testing::TinyModel make(const Value& config, bool trainable = false) {
    at::manual_seed(3);
    return {architecture, config, {}, trainable};
  }
};

at::Tensor row(const std::vector<int64_t>& ids) { return at::tensor(ids, at::kLong).unsqueeze(0); }

std::map<std::string, at::Tensor> views(const std::vector<Size>& grids, uint64_t seed, int64_t most = 24) {
  at::manual_seed(seed);
  std::vector<int64_t> shapes, lengths;
  for (const Size& grid : grids) shapes.insert(shapes.end(), {grid.height, grid.width}), lengths.push_back(grid.height * grid.width);
  const auto count = static_cast<int64_t>(grids.size());
  return {{"pixel_values", at::randn({count, most, kPatchWidth})},
          {"spatial_shapes", at::tensor(shapes, at::kLong).view({-1, 2})},
          {"pixel_attention_mask", at::lt(at::arange(most).unsqueeze(0), at::tensor(lengths, at::kLong).unsqueeze(1)).to(at::kInt)}};
}

// 4 x 2 patches are two tokens.
const std::vector<int64_t> kOnePicture = {1, kImage, kImage, 2};

TEST_CASE("features take the places of the picture's tokens and touch no other") {
  Lfm2Vl lfm2_vl;
  auto tiny = lfm2_vl.make(config());
  const at::Tensor plain = tiny.logits({.ids = row(kOnePicture)});
  const at::Tensor one = tiny.logits({.ids = row(kOnePicture), .media = views({{4, 2}}, 1)});
  const at::Tensor other = tiny.logits({.ids = row(kOnePicture), .media = views({{4, 2}}, 2)});
  for (const int64_t t : {0, 3}) CHECK((one.select(1, t).equal(plain.select(1, t)) && one.select(1, t).equal(other.select(1, t))));
  for (const int64_t t : {1, 2}) CHECK_FALSE(one.select(1, t).allclose(other.select(1, t)));
}

TEST_CASE("a picture is seen the same beside others, and what pads it is not seen") {
  Lfm2Vl lfm2_vl;
  auto tiny = lfm2_vl.make(config());
  const std::vector<Size> grids = {{4, 2}, {2, 10}, {2, 4}};
  auto all = views(grids, 1);
  const at::Tensor ids =
      at::cat({row({1, kImage, kImage, 3, kImage, kImage, kImage, kImage, kImage}), row({kImage, 2, kImage, 1, 1, 1, 1, 1, kImage})}, 0);
  const at::Tensor segments = at::cat({row({1, 1, 1, 1, 1, 1, 1, 1, 1}), row({1, 1, 1, 1, 1, 1, 0, 0, 0})}, 0);
  const at::Tensor together = tiny.logits({.ids = ids, .segments = segments, .media = all});
  int64_t i = 0;
  for (const auto& [r, first, count] : {std::tuple{0, 1, 2}, {0, 4, 5}}) {
    auto one = views({grids[static_cast<size_t>(i)]}, 2);
    const int64_t patches = grids[static_cast<size_t>(i)].height * grids[static_cast<size_t>(i)].width;
    one["pixel_values"].select(0, 0).narrow(0, 0, patches).copy_(all["pixel_values"].select(0, i).narrow(0, 0, patches));
    const at::Tensor alone = tiny.logits({.ids = row(std::vector<int64_t>(static_cast<size_t>(count), kImage)), .media = one});
    CHECK(alone[0].allclose(together[r].narrow(0, first, count), 1e-4, 1e-5));
    ++i;
  }
}

TEST_CASE("squares of patches become tokens, row by row") {
  // Patches numbered in rows of four.
  const at::Tensor numbers = at::arange(8, at::kFloat).view({1, 8, 1});
  CHECK(unshuffle(numbers, {{2, 4}}, 2).equal(at::tensor({0, 1, 4, 5, 2, 3, 6, 7}, at::kFloat).view({1, 2, 4})));
  CHECK(unshuffle(numbers, {{2, 4}}, 1).equal(numbers));
  CHECK(unshuffle(at::cat({numbers, numbers}, 1), {{2, 4}, {4, 2}}, 2)
            .narrow(1, 2, 2)
            .equal(at::tensor({0, 1, 2, 3, 4, 5, 6, 7}, at::kFloat).view({1, 2, 4})));
}

TEST_CASE("patches hold their pixels row by row, colours side by side") {
  const at::Tensor rgb = at::arange(3 * 2 * 4, at::kFloat).view({3, 2, 4});
  CHECK(cut_patches(rgb, 2).equal(
      at::tensor({0, 8, 16, 1, 9, 17, 4, 12, 20, 5, 13, 21, 2, 10, 18, 3, 11, 19, 6, 14, 22, 7, 15, 23}, at::kFloat).view({2, 12})));
}

TEST_CASE("gradients reach the tower, the projector and the text model") {
  Lfm2Vl lfm2_vl;
  auto tiny = lfm2_vl.make(config(), true);
  tiny.hidden({.ids = row({1, kImage, kImage, kImage, kImage, kImage, 2}), .media = views({{4, 2}, {2, 6}}, 1)}).square().sum().backward();
  for (const auto& [name, parameter] : tiny.parts->parameters()) {
    // A bias of keys moves all scores of a query alike: softmax does not see it.
    if (name == "lm_head.weight" || name.ends_with("k_proj.bias")) continue;
    CAPTURE(name);
    REQUIRE(parameter.grad().defined());
    CHECK(parameter.grad().abs().max().item<double>() > 0);
  }
}

TEST_CASE("media that do not fit are refused") {
  Lfm2Vl lfm2_vl;
  auto tiny = lfm2_vl.make(config());
  const auto run = [&](std::map<std::string, at::Tensor> media) {
    return error_of([&] { tiny.logits({.ids = row(kOnePicture), .media = media}); }, ErrorCode::Data);
  };
  CHECK(run(views({{4, 4}}, 1)) == "the batch has 2 image tokens (id 7) and 1 views of pictures, which take 4");
  CHECK(contains(run(views({{3, 2}}, 1)), "spatial_shapes[0] is 3 x 2, expected rows and columns that are multiples of 2"));
  CHECK(contains(run(views({{4, 8}}, 1)), "24 patches or fewer"));
  auto media = views({{4, 2}}, 1);
  media["pixel_attention_mask"].zero_();
  CHECK(contains(run(media), "pixel_attention_mask does not mark the patches of spatial_shapes"));
  media = views({{4, 2}}, 1);
  media["pixel_values"] = at::zeros({1, 24, 11});
  CHECK(contains(run(media), "pixel_values are [1, 24, 11], expected [1, patches, 12]"));
  media.erase("spatial_shapes");
  CHECK(run(media) == "media hold pixel_values without spatial_shapes");
  CHECK(contains(run({{"audio", at::zeros({1})}}), "media tensor 'audio' has no use here"));
}

TEST_CASE("absent keys take the class's defaults") {
  const Lfm2VlConfig c = read_lfm2_vl_config(Value::table());
  CHECK(c.text_type == "lfm2");
  CHECK(c.text.at("tie_word_embeddings").as_bool());
  CHECK(c.image_token == 396);
  CHECK(c.factor == 2);
  CHECK(c.projector_width == 2560);
  CHECK((c.projector_bias && c.projector_has_norm && c.projector_activation == "gelu"));
  CHECK((c.vision.kind == TowerKind::Siglip2 && c.vision.hidden == 768 && c.vision.intermediate == 3072 && c.vision.layers == 12));
  CHECK((c.vision.heads == 12 && c.vision.patch == 16 && c.vision.side() == 16 && c.vision.eps == 1e-6 && c.vision.has_pooling_head));
  CHECK(c.vision.activation == "gelu_pytorch_tanh");
}

TEST_CASE("the outer config decides over the text model's tying, rotary and dtype") {
  Value text = Value::table();
  text.set("tie_embedding", false), text.set("rope_theta", 10.0);
  const Lfm2VlConfig c = read_lfm2_vl_config(config({{"text_config", text}, {"rope_theta", 20.0}, {"torch_dtype", "bfloat16"}}));
  CHECK_FALSE(c.text.find("tie_embedding"));
  CHECK(c.text.at("tie_word_embeddings").as_bool());
  CHECK(c.text.at("rope_theta").as_float() == 20);
  CHECK(c.text.at("torch_dtype").as_string() == "bfloat16");
}

TEST_CASE("configs that ask for what is not served are refused by name") {
  const auto refusal = [](Entries extra, Entries vision = {}) {
    return error_of([&] { read_lfm2_vl_config(config(extra, vision)); }, ErrorCode::Data);
  };
  CHECK(refusal({}) == "no error");
  CHECK(contains(refusal({}, {{"model_type", "siglip_vision_model"}}), "expected siglip2_vision_model: other towers are not served"));
  CHECK(contains(refusal({}, {{"num_patches", 10}}), "num_patches is 10, expected a square number"));
  CHECK(contains(refusal({}, {{"patch_size", Value::List{2, 4}}}), "only squares are served"));
  CHECK(contains(refusal({{"downsample_factor", 0}}), "downsample_factor is 0"));
  CHECK(contains(refusal({{"projector_hidden_act", "wish"}}), "projector_hidden_act is \"wish\""));
  CHECK(contains(refusal({{"text_config", 3}}), "text_config is 3, expected a table"));
  Value text = Value::table();
  text.set("model_type", "lfm2_moe");
  CHECK(contains(error_of([&] {
                   Lfm2Vl().architecture.blueprint(config({{"text_config", text}}));
                 }),
                 "there is no architecture 'lfm2_moe'"));
}

TEST_CASE("every slot says its part; files of transformers 4 and 5 are read") {
  Lfm2Vl lfm2_vl;
  const Blueprint b = lfm2_vl.architecture.blueprint(config());
  const SlotSpec* patches = b.find_slot("model.vision_tower.embeddings.patch_embedding");
  REQUIRE(patches);
  CHECK((patches->part == "vision" && patches->in == kPatchWidth && patches->block == 0));
  REQUIRE(patches->sources.size() == 2);
  CHECK(patches->sources[0].pieces[0].tensor == "model.vision_tower.vision_model.embeddings.patch_embedding.weight");
  CHECK(patches->sources[1].pieces[0].tensor == "model.vision_tower.embeddings.patch_embedding.weight");
  CHECK(b.find_slot("model.language_model.layers.0.up")->sources[0].pieces[0].tensor == "model.language_model.layers.0.up.weight");
  CHECK(b.find_slot("model.multi_modal_projector.linear_1")->part == "projector");
  CHECK(b.find_slot("model.multi_modal_projector.linear_1")->in == 32);
}

TEST_CASE("views: bounds of the area, tiles for large pictures, a small view behind them") {
  const ViewRules rules;
  const auto expect = [&](Size picture, Size whole, Size tiles) {
    const Views views = choose_views(picture, rules);
    CHECK((views.whole == whole && views.tiles == tiles));
  };
  expect({512, 512}, {512, 512}, {1, 1});
  expect({303, 384}, {288, 384}, {1, 1});
  expect({1, 1}, {256, 256}, {1, 1});
  expect({48, 80}, {224, 352}, {1, 1});      // enlarged to 64 tokens
  expect({1000, 400}, {800, 320}, {1, 1});   // 320 x 800 = 250 tokens, below twice the most
  expect({1024, 1024}, {512, 512}, {2, 2});  // 2 x 2, 3 x 3: the picture does not fill half of the latter
  expect({600, 2400}, {256, 1024}, {1, 4});
  ViewRules whole = rules;
  whole.splits = false;
  CHECK_FALSE(choose_views({1024, 1024}, whole).is_tiled());
  CHECK(whole.max_patches() == 1024);
  CHECK(contains(error_of([&] { choose_views({1, 20000}, rules); }), "is a strip"));
}

// A folder with the tokenizer files that name the marks.
struct TokenFolder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / "tenon_lfm2_vl_test";
  explicit TokenFolder(const std::string& added, const std::string& config = "{}") {
    std::filesystem::create_directories(path);
    std::ofstream(path / "tokenizer.json") << R"({"added_tokens": [)" << added << "]}";
    std::ofstream(path / "tokenizer_config.json") << config;
  }
  ~TokenFolder() { std::filesystem::remove_all(path); }
};

TEST_CASE("names of tokens: tokenizer_config.json may call them otherwise") {
  const TokenFolder folder(R"({"id": 7, "content": "<image>"}, {"id": 8, "content": "[go]"})",
                           R"({"image_start_token": "[go]", "extra_special_tokens": {"image_end_token": {"content": "[stop]"}}})");
  const TokenNames names(folder.path.string());
  CHECK(names.text_of("image_start_token", "?") == "[go]");
  CHECK(names.text_of("image_end_token", "?") == "[stop]");
  CHECK(names.text_of("image_token", "<image>") == "<image>");
  CHECK(names.id_of("[go]") == 8);
  CHECK(contains(error_of([&] { names.id_of("[stop]"); }, ErrorCode::Data), "no added token '[stop]'"));
  CHECK(contains(error_of([] { TokenNames("/nonexistent"); }, ErrorCode::Data), "has no tokenizer.json"));
}

TEST_CASE("processors: files of other models and recipes that do not fit are refused") {
  const TokenFolder folder(R"({"id": 7, "content": "<image>"})");
  const Lfm2VlConfig c = read_lfm2_vl_config(config());
  ProcessorFiles files;
  files.folder = folder.path.string();
  files.preprocessor.set("encoder_patch_size", 2), files.preprocessor.set("tile_size", 8);
  const auto refusal = [&](Entries extra) {
    ProcessorFiles changed = files;
    for (const auto& [key, value] : extra) changed.preprocessor.set(key, value);
    return error_of([&] { Lfm2VlProcessor(c, changed); }, ErrorCode::Data);
  };
  CHECK(refusal({}) == "no error");
  CHECK(contains(refusal({{"encoder_patch_size", 16}}), "encoder_patch_size is 16, the model's is 2"));
  CHECK(contains(refusal({{"downsample_factor", 3}}), "downsample_factor is 3, the model's is 2"));
  CHECK(contains(refusal({{"tile_size", 10}}), "tile_size is 10, expected a multiple of 4"));
  CHECK(contains(refusal({{"min_tiles", 4}, {"max_tiles", 3}}), "min_tiles is 4, expected max_tiles (3) or less"));
  CHECK(contains(refusal({{"do_pad", false}}), "do_pad is false"));
  CHECK(contains(refusal({{"min_image_tokens", 9}, {"max_image_tokens", 8}}), "the least a picture may take is 9 tokens"));
  files.processor.set("use_image_special_tokens", false);
  CHECK(contains(refusal({}), "use_image_special_tokens is false"));
  files.processor.set("use_image_special_tokens", true);
  files.max_pixels = 15;
  CHECK(contains(error_of([&] { Lfm2VlProcessor(c, files); }, ErrorCode::Recipe), "media.max_pixels is 15, expected 16 or more"));
  files.max_pixels.reset(), files.image_size = 8;
  CHECK(contains(error_of([&] { Lfm2VlProcessor(c, files); }, ErrorCode::Recipe), "media.image_size"));
  files.image_size.reset();
  const TokenFolder other(R"({"id": 6, "content": "<image>"})");
  CHECK(contains(error_of([&] { Lfm2VlProcessor(c, files); }, ErrorCode::Data), "the token '<image>' is 6 in tokenizer.json"));
}

}  // namespace
}  // namespace tenon::vlm
