// Qwen2-VL and Qwen2.5-VL: where tokens stand, who sees whom in the tower, what is refused. Parity is tests/parity/test_vlm_qwen.py.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <doctest/doctest.h>

#include <functional>
#include <numeric>

#include "qwen_positions.h"
#include "qwen_processor.h"
#include "qwen_vl.h"
#include "stub_text.h"
#include "support/tiny_model.h"
#include "tenon/nn/kv_cache.h"

namespace tenon::vlm {
namespace {

constexpr int64_t kImage = 7, kVideo = 8, kVocab = 11, kWidth = 8;

at::Tensor row(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong).unsqueeze(0); }

std::vector<int64_t> axis(const Placement& placement, int64_t a, int64_t r = 0) {
  const at::Tensor line = placement.positions.select(0, std::min(a, placement.positions.size(0) - 1)).select(0, r).contiguous();
  return {line.const_data_ptr<int64_t>(), line.const_data_ptr<int64_t>() + line.numel()};
}
using Ints = std::vector<int64_t>;

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::vector<TokenGrids> one_kind(std::vector<Grid> grids, std::vector<float> steps = {}) {
  return {{.kind = "image", .token = kImage, .grids = std::move(grids), .frame_steps = std::move(steps), .merge = 2}};
}

TEST_CASE("a picture's tokens stand in rows and columns, what follows behind its longer side") {
  // 2 x 3 tokens.
  const Placement p = place_media(row({1, 2, 7, 7, 7, 7, 7, 7, 3, 4}), {}, one_kind({{1, 4, 6}}), nullptr);
  CHECK(axis(p, 0) == Ints{0, 1, 2, 2, 2, 2, 2, 2, 5, 6});
  CHECK(axis(p, 1) == Ints{0, 1, 2, 2, 2, 3, 3, 3, 5, 6});
  CHECK(axis(p, 2) == Ints{0, 1, 2, 3, 4, 2, 3, 4, 5, 6});
  CHECK(p.places[0].equal(at::arange(2, 8)));
}

TEST_CASE("without media one axis counts within segments, padding at zero") {
  const Placement p = place_media(row({1, 7, 2, 3, 4, 5}), row({0, 1, 1, 2, 2, 2}), one_kind({}), nullptr);
  CHECK(p.positions.size(0) == 1);
  CHECK(axis(p, 0) == Ints{0, 0, 1, 0, 1, 2});
}

TEST_CASE("packed documents each count their own pictures, two of which may touch") {
  const Placement p = place_media(row({7, 1, 7, 7, 1, 2}), row({1, 1, 2, 2, 2, 2}), one_kind({{1, 2, 2}, {1, 2, 2}, {1, 2, 2}}), nullptr);
  CHECK(axis(p, 1) == Ints{0, 1, 0, 1, 2, 3});
}

TEST_CASE("frames stand their time apart, and what is generated stands behind the largest position") {
  Held held(1);
  const Placement p = place_media(row({1, 7, 7, 7, 2}), {}, one_kind({{3, 2, 2}}, {2.5f}), &held);
  CHECK(axis(p, 0) == Ints{0, 1, 3, 6, 2});
  CHECK(axis(p, 1) == Ints{0, 1, 1, 1, 2});
  CHECK(axis(place_media(row({5}), {}, one_kind({}), &held), 0) == Ints{7});
  CHECK(axis(place_media(row({5, 6}), {}, one_kind({}), &held), 0) == Ints{8, 9});
  held[0].resize(1);
  CHECK(axis(place_media(row({5}), {}, one_kind({}), &held), 0) == Ints{1});
}

TEST_CASE("positions that are given are what generation goes on from") {
  Held held(1);
  hold_positions(at::tensor({3, 4, 1, 9, 0, 2}, at::kLong).view({3, 1, 2}), {}, held);
  CHECK(axis(place_media(row({5}), {}, one_kind({}), &held), 0) == Ints{10});
}

TEST_CASE("tokens and media that do not match are refused") {
  const auto refusal = [&](const Ints& ids, std::vector<Grid> grids) {
    return error_of([&] { place_media(row(ids), {}, one_kind(std::move(grids)), nullptr); });
  };
  CHECK(refusal({7, 7, 1}, {{1, 2, 2}}) == "the batch has 2 image tokens (id 7) and 1 images, which take 1");
  CHECK(refusal({7, 1, 7}, {{1, 2, 4}}).find("takes 2 tokens (id 7) in a row, found 1") != std::string::npos);
  CHECK(error_of([] { read_grids(row({1, 3, 4}), 2, "grid"); }).find("grid[0] is 1 x 3 x 4, expected") == 0);
  CHECK(error_of([] { read_grids(row({1, 4}), 2, "grid"); }).find("expected [media, 3]") != std::string::npos);
}

TEST_CASE("windows hold what lies together, edges are smaller windows") {
  const Windows windows = sort_into_windows({{1, 6, 10}, {2, 2, 2}}, 2, 2);
  CHECK(windows.order == Ints{0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14, 15, 16});
  CHECK(windows.lengths == Ints{16, 16, 8, 8, 8, 4, 4, 4});
  CHECK(std::accumulate(windows.lengths.begin(), windows.lengths.end(), int64_t{0}) == 17 * 4);
  CHECK(frame_lengths({{1, 6, 10}, {2, 2, 2}}) == Ints{60, 4, 4});
}

TEST_CASE("sizes are multiples of a token's edge within the bounds") {
  CHECK(smart_resize({224, 224}, 28, 3136, 1003520) == Size{224, 224});
  CHECK(smart_resize({42, 70}, 28, 28, 1003520) == Size{56, 56});  // both are ties: 1.5 -> 2, 2.5 -> 2
  CHECK(smart_resize({1, 1}, 28, 3136, 1003520) == Size{56, 56});
  CHECK(smart_resize({3, 200}, 28, 3136, 1003520) == Size{28, 476});
  CHECK(smart_resize({4000, 3000}, 28, 3136, 1003520) == Size{1148, 840});
  CHECK(smart_resize({2000, 20}, 28, 28, 800) == Size{280, 28});
  CHECK(error_of([] { smart_resize({201, 1}, 28, 3136, 1003520); }).find("is a strip") != std::string::npos);
}

TEST_CASE("patches come in squares that become one token, each pixel once a frame") {
  const at::Tensor rgb = at::arange(3 * 4 * 8, at::kFloat).view({3, 4, 8});
  const at::Tensor patches = patchify(rgb.unsqueeze(0).expand({2, -1, -1, -1}), 2, 2);
  REQUIRE(patches.sizes() == at::IntArrayRef({8, 24}));
  // Third patch: second row of the first square. Channel, frame, row, column.
  CHECK(patches.select(0, 2).view({3, 2, 2, 2}).select(1, 1).equal(rgb.narrow(1, 2, 2).narrow(2, 0, 2)));
  CHECK(patches.select(0, 5).view({3, 2, 2, 2}).select(1, 0).equal(rgb.narrow(1, 0, 2).narrow(2, 6, 2)));
}

// It adds the angle of each token's first pair: what the rotary seam answers shows in the logits.
class TurningText final : public testing::StubText {
 public:
  explicit TurningText(Parts& parts) : StubText(parts) {
    seams_.rotary.set_default("none", [](const RotaryArgs&) { return Rotary{}; });
  }
  State begin(const Batch& batch, Cache* cache) override {
    State state = StubText::begin(batch, cache);
    auto* kv = dynamic_cast<nn::KvCache*>(cache);
    REQUIRE((kv != nullptr) == (cache != nullptr));
    nn::place_tokens(batch, kv, state);
    state.rotary["default"] = seams_.rotary({.positions = state.positions, .inv_freq = at::tensor({0.5f, 0.3f, 0.2f, 0.1f})});
    return state;
  }
  void run_block(int stack, int64_t i, State& state) override {
    CHECK(stack == 0);
    StubText::run_block(stack, i, state);
    state.hidden = state.hidden + state.rotary.at("default").sin;
  }
  at::Tensor finish(State& state) override {
    if (state.cache) static_cast<nn::KvCache*>(state.cache)->commit(state.hidden.size(1));
    return state.hidden;
  }
  std::unique_ptr<Cache> make_cache(int64_t batch, int64_t capacity) override {
    return std::make_unique<nn::KvCache>(std::vector<nn::KvCache::Layer>{}, batch, capacity, at::kFloat);
  }
};

Blueprint text_blueprint(const Value& config) {
  Blueprint b = testing::stub_blueprint("qwen2", kWidth);
  b.context_length = config.at("max_position_embeddings").as_int();
  return b;
}

using Entries = std::initializer_list<Value::Entry>;

Value config(const QwenFamily& family, Entries extra = {}, Entries vision_extra = {}) {
  Value vision = Value::table(), all = Value::table();
  vision.set("depth", 2), vision.set("num_heads", 2), vision.set("patch_size", 2);
  if (family.is_windowed)
    vision.set("hidden_size", 8), vision.set("out_hidden_size", kWidth), vision.set("intermediate_size", 6), vision.set("window_size", 8),
        vision.set("fullatt_block_indexes", Value::List{1});
  else
    vision.set("embed_dim", 8), vision.set("hidden_size", kWidth);
  for (const auto& [key, value] : vision_extra) vision.set(key, value);
  all.set("hidden_size", kWidth), all.set("num_attention_heads", 1), all.set("vocab_size", kVocab);
  all.set("image_token_id", kImage), all.set("video_token_id", kVideo);
  Value rope = Value::table();
  rope.set("type", "mrope"), rope.set("mrope_section", Value::List{2, 1, 1});
  all.set("rope_scaling", rope), all.set("vision_config", vision);
  for (const auto& [key, value] : extra) all.set(key, value);
  return all;
}

struct Qwen {
  testing::StubBackbones<TurningText> backbones{"qwen2", text_blueprint};
  QwenVlArchitecture architecture;
  const QwenFamily& family;
  explicit Qwen(const QwenFamily& f) : architecture(f), family(f) { architecture.use(backbones); }
  testing::TinyModel make(bool trainable = false) {
    at::manual_seed(3);
    return {architecture, config(family), {}, trainable};
  }
};

std::map<std::string, at::Tensor> pictures(const std::vector<Grid>& grids, int64_t seed = 1) {
  at::manual_seed(static_cast<uint64_t>(seed));
  Ints thw;
  int64_t count = 0;
  for (const Grid& g : grids) thw.insert(thw.end(), {g.frames, g.rows, g.columns}), count += g.patches();
  return {{"pixel_values", at::randn({count, 24})}, {"image_grid_thw", at::tensor(thw, at::kLong).view({-1, 3})}};
}

const Ints kOnePicture = {1, 7, 7, 7, 7, 2};

TEST_CASE("features take the places of the picture's tokens and touch no other") {
  for (const QwenFamily* family : {&kQwen2Vl, &kQwen25Vl}) {
    Qwen qwen(*family);
    auto tiny = qwen.make();
    const at::Tensor one = tiny.logits({.ids = row(kOnePicture), .media = pictures({{1, 4, 4}}, 1)});
    const at::Tensor other = tiny.logits({.ids = row(kOnePicture), .media = pictures({{1, 4, 4}}, 2)});
    for (const int64_t t : {0, 5}) CHECK(one.select(1, t).equal(other.select(1, t)));
    for (const int64_t t : {1, 2, 3, 4}) CHECK_FALSE(one.select(1, t).allclose(other.select(1, t)));
  }
}

TEST_CASE("a picture is seen the same beside others") {
  for (const QwenFamily* family : {&kQwen2Vl, &kQwen25Vl}) {
    Qwen qwen(*family);
    auto tiny = qwen.make();
    // 1 x 3 and 5 x 3 tokens: windows of two a side, some cut.
    const std::vector<Grid> grids = {{1, 2, 6}, {1, 10, 6}};
    auto both = pictures(grids);
    Ints ids = {1};
    ids.insert(ids.end(), 3, kImage), ids.push_back(2), ids.insert(ids.end(), 15, kImage);
    const at::Tensor together = tiny.logits({.ids = row(ids), .media = both});
    Ints alone = {1, 7, 7, 7};
    auto first = pictures({grids[0]});
    first["pixel_values"] = both["pixel_values"].narrow(0, 0, 12);
    CHECK(tiny.logits({.ids = row(alone), .media = first}).allclose(together.narrow(1, 0, 4), 1e-4, 1e-5));
    // As a video the picture is the same too: its tokens have another name.
    std::map<std::string, at::Tensor> mixed = first;
    mixed["pixel_values_videos"] = both["pixel_values"].narrow(0, 12, 60), mixed["video_grid_thw"] = row({1, 10, 6});
    Ints ids_video = ids;
    for (size_t i = 5; i < ids_video.size(); ++i) ids_video[i] = kVideo;
    CHECK(tiny.logits({.ids = row(ids_video), .media = mixed}).allclose(together, 1e-4, 1e-5));
  }
}

TEST_CASE("a cache goes on where the picture ends, after a cut too") {
  Qwen qwen(kQwen2Vl);
  auto tiny = qwen.make();
  const auto media = pictures({{1, 4, 6}});
  const at::Tensor ids = row({1, 7, 7, 7, 7, 7, 7, 2, 3, 4});
  const at::Tensor whole = tiny.logits({.ids = ids, .media = media});
  const auto cache = tiny.model->make_cache(1, 12);
  const at::Tensor start = tiny.logits({.ids = ids.narrow(1, 0, 8), .media = media}, cache.get());
  CHECK(start.allclose(whole.narrow(1, 0, 8)));
  for (int again = 0; again < 2; ++again) {
    for (int64_t t = 8; t < 10; ++t) CHECK(tiny.logits({.ids = ids.narrow(1, t, 1)}, cache.get()).allclose(whole.narrow(1, t, 1)));
    cache->truncate(8);
  }
  // Counting tokens instead would give another angle.
  CHECK_FALSE(tiny.logits({.ids = ids}).narrow(1, 9, 1).allclose(whole.narrow(1, 9, 1)));
}

TEST_CASE("gradients reach the tower, the merger and the text model") {
  for (const QwenFamily* family : {&kQwen2Vl, &kQwen25Vl}) {
    Qwen qwen(*family);
    auto tiny = qwen.make(true);
    tiny.hidden({.ids = row({1, 7, 7, 7, 7, 7, 7, 2}), .media = pictures({{1, 4, 6}})}).square().sum().backward();
    for (const auto& [name, parameter] : tiny.parts->parameters()) {
      if (name == "lm_head.weight") continue;
      CAPTURE(name);
      REQUIRE(parameter.grad().defined());
      CHECK(parameter.grad().abs().max().item<double>() > 0);
    }
  }
}

TEST_CASE("media that do not fit are refused") {
  Qwen qwen(kQwen2Vl);
  auto tiny = qwen.make();
  const auto run = [&](std::map<std::string, at::Tensor> media) {
    return error_of([&] { tiny.logits({.ids = row(kOnePicture), .media = media}); });
  };
  auto media = pictures({{1, 4, 4}});
  media["pixel_values"] = at::rand({16, 23});
  CHECK(run(media).find("pixel_values are [16, 23], image_grid_thw asks for [16, 24]") == 0);
  media.erase("image_grid_thw");
  CHECK(run(media) == "media hold pixel_values without image_grid_thw");
  CHECK(run({{"audio", at::rand({1})}}).find("media tensor 'audio' has no use here") == 0);
  CHECK(run(pictures({{1, 4, 6}})) == "the batch has 4 image tokens (id 7) and 1 images, which take 6");
}

TEST_CASE("absent keys take the class's defaults, flat and nested alike") {
  const QwenVlConfig bare =
      read_qwen_config(kQwen2Vl, config(kQwen2Vl, {{"hidden_size", 3584}, {"num_attention_heads", 448}}, {{"hidden_size", 3584}}));
  for (const auto& [key, value] : Value::Table{
           {"intermediate_size", 29568}, {"num_hidden_layers", 80}, {"num_key_value_heads", 8}, {"max_position_embeddings", 32768}})
    CHECK(bare.text.at(key) == value);
  CHECK(bare.text.at("rms_norm_eps").as_float() == 1e-5);
  CHECK(bare.text.at("rope_parameters").at("rope_theta").as_float() == 1e6);
  CHECK(bare.text.at("rope_parameters").at("rope_type").as_string() == "default");
  CHECK(bare.sections == Ints{2, 1, 1});
  Value vision = Value::table();
  vision.set("hidden_size", 8192);
  Value nothing = Value::table();
  nothing.set("vision_config", vision);
  const QwenVlConfig all = read_qwen_config(kQwen2Vl, nothing);
  CHECK(all.vision.hidden == 1280);
  CHECK(all.vision.intermediate == 5120);
  CHECK(all.vision.activation == "quick_gelu");
  CHECK(all.sections == Ints{16, 24, 24});
  vision.set("out_hidden_size", 8192), nothing.set("vision_config", vision);
  const QwenVisionConfig tower = read_qwen_config(kQwen25Vl, nothing).vision;
  CHECK(tower.intermediate == 3420);
  CHECK(tower.window == 4);
  CHECK(tower.tokens_per_second == 4);
  CHECK((tower.sees_all[7] && tower.sees_all[31] && !tower.sees_all[8]));
  // Nested; a patch's rotary table beside it keeps the sections.
  Value nested = Value::table(), text = config(kQwen2Vl), rope = Value::table();
  text.erase("vision_config");
  rope.set("rope_type", "linear"), rope.set("factor", 2.0);
  nested.set("text_config", text), nested.set("vision_config", config(kQwen2Vl).at("vision_config")), nested.set("rope_parameters", rope);
  nested.set("torch_dtype", "bfloat16"), nested.set("image_token_id", kImage);
  const QwenVlConfig patched = read_qwen_config(kQwen2Vl, nested);
  CHECK(patched.sections == Ints{2, 1, 1});
  CHECK(patched.text.at("rope_parameters").at("rope_type").as_string() == "linear");
  CHECK(patched.text.at("torch_dtype").as_string() == "bfloat16");
}

TEST_CASE("configs that ask for what is not served are refused by name") {
  const auto refusal = [&](const QwenFamily& family, Entries extra, Entries vision = {}) {
    return error_of([&] { read_qwen_config(family, config(family, extra, vision)); });
  };
  CHECK(refusal(kQwen2Vl, {}) == "no error");
  CHECK(refusal(kQwen25Vl, {}) == "no error");
  CHECK(refusal(kQwen2Vl, {}, {{"model_type", "siglip_vision_model"}}).find("model_type is 'siglip_vision_model'") != std::string::npos);
  CHECK(refusal(kQwen2Vl, {}, {{"embed_dim", 12}}).find("embed_dim is 12, expected num_heads (2) times a multiple of 4") !=
        std::string::npos);
  CHECK(refusal(kQwen2Vl, {}, {{"hidden_size", 9}}).find("vision_config.hidden_size is 9, expected text_config.hidden_size (8)") !=
        std::string::npos);
  CHECK(refusal(kQwen2Vl, {{"head_dim", 16}}).find("head_dim is 16") != std::string::npos);
  CHECK(refusal(kQwen25Vl, {}, {{"window_size", 3}}).find("window_size is 3, expected 4 or more") != std::string::npos);
  CHECK(refusal(kQwen25Vl, {}, {{"fullatt_block_indexes", 3}}).find("fullatt_block_indexes is 3, expected a list") != std::string::npos);
  Value rope = Value::table();
  rope.set("mrope_section", Value::List{1, 1, 1});
  CHECK(refusal(kQwen2Vl, {{"rope_scaling", rope}}).find("adds up to 3, expected half of a head (4)") != std::string::npos);
  rope = Value::table();
  rope.set("rope_type", "yarn");
  CHECK(refusal(kQwen2Vl, {}, {{"rope_parameters", rope}}).find("rope_parameters.rope_type is \"yarn\", expected axial") !=
        std::string::npos);
}

TEST_CASE("every slot says its part, and both layouts of files are known") {
  Qwen qwen(kQwen25Vl);
  const Blueprint b = qwen.architecture.blueprint(config(kQwen25Vl));
  CHECK(b.model_type == "qwen2_5_vl");
  const SlotSpec* up = b.find_slot("model.language_model.layers.0.up");
  REQUIRE(up);
  CHECK(up->stack == 1);
  REQUIRE(up->sources.size() == 2);
  CHECK(up->sources[0].pieces[0].tensor == "model.layers.0.up.weight");
  CHECK(up->sources[1].pieces[0].tensor == "model.language_model.layers.0.up.weight");
  CHECK(b.find_slot("lm_head")->sources[1].pieces[0].tensor == "lm_head.weight");
  CHECK(b.find_slot("model.visual.blocks.1.attn.qkv")->part == "vision");
  CHECK(b.find_slot("model.visual.blocks.1.attn.qkv")->sources[0].pieces[0].tensor == "visual.blocks.1.attn.qkv.weight");
  CHECK(b.find_slot("model.visual.merger.mlp.2")->part == "projector");
}

TEST_CASE("processors: files of other models and recipes that do not fit are refused") {
  const QwenVlConfig c = read_qwen_config(kQwen2Vl, config(kQwen2Vl));
  ProcessorFiles files;
  files.folder = "checkpoint";
  files.preprocessor.set("patch_size", 2);
  const auto refusal = [&] { return error_of([&] { QwenProcessor(c, files); }); };
  CHECK(refusal() == "no error");
  files.preprocessor.set("size", Value::Table{{"shortest_edge", 28}});
  CHECK(refusal().find("expected {shortest_edge, longest_edge}") != std::string::npos);
  files.preprocessor.set("min_pixels", 28), files.preprocessor.set("max_pixels", 2800), files.preprocessor.set("merge_size", 3);
  CHECK(refusal().find("merge_size is 3, the tower's is 2") != std::string::npos);
  files.preprocessor.erase("merge_size");
  files.min_pixels = 2801;
  CHECK(refusal().find("min_pixels is 2801, expected max_pixels (2800) or less") == 0);
  files.image_size = 28;
  CHECK(refusal().find("media.image_size") == 0);
}

}  // namespace
}  // namespace tenon::vlm
