// Mllama: who looks at which picture, how pictures are laid onto tiles, what is refused. Parity is tests/parity/test_vlm_mllama.py.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <doctest/doctest.h>

#include <functional>

#include "mllama.h"
#include "mllama_canvas.h"
#include "mllama_config.h"
#include "mllama_processor.h"
#include "mllama_sight.h"
#include "stub_text.h"
#include "support/tiny_model.h"
#include "tenon/nn/attention.h"
#include "tenon/nn/kv_cache.h"
#include "tenon/nn/norm.h"

namespace tenon::vlm {
namespace {

constexpr int64_t kImage = 12, kVocab = 11, kWidth = 8;

at::Tensor row(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong).unsqueeze(0); }

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

Pictures with_tiles(std::vector<int64_t> tiles) { return {.tiles = std::move(tiles), .max_tiles = 4, .image_token = kImage}; }

// "row:first+count picture/tiles ..."
std::string show(const std::vector<Stretch>& stretches) {
  std::string text;
  for (const Stretch& s : stretches) {
    text += concat(text.empty() ? "" : "; ", s.row, ":", s.first, "+", s.count, s.is_blind ? " blind" : "");
    for (const View& view : s.views) text += concat(" ", view.picture, "/", view.tiles);
  }
  return text;
}

TEST_CASE("text sees the last picture before it, and before the first one all of them, empty tiles too") {
  CHECK(show(look(row({1, 12, 2, 3, 12, 4}), {}, 0, with_tiles({2, 1}), nullptr)) == "0:0+1 blind 0/4 1/4; 0:1+3 0/2; 0:4+2 1/1");
}

TEST_CASE("pictures without a word between are seen together by what follows") {
  CHECK(show(look(row({12, 12, 12, 2, 12}), {}, 0, with_tiles({2, 1, 3, 4}), nullptr)) ==
        "0:0+1 0/2; 0:1+1 0/2 1/1; 0:2+2 0/2 1/1 2/3; 0:4+1 3/4");
}

TEST_CASE("padding and documents without pictures look at nothing, packed documents at their own") {
  const at::Tensor ids = at::cat({row({0, 0, 1, 12, 2, 3}), row({4, 5, 6, 12, 7, 0})});
  const at::Tensor segments = at::cat({row({0, 0, 1, 1, 1, 1}), row({1, 1, 2, 2, 2, 0})});
  CHECK(show(look(ids, segments, 0, with_tiles({1, 2}), nullptr)) ==
        "0:0+2; 0:2+1 blind 0/4; 0:3+3 0/1; 1:0+2 blind; 1:2+1 blind 1/4; 1:3+2 1/2; 1:5+1");
  CHECK(look(row({1, 12}), {}, 0, with_tiles({}), nullptr).empty());
}

TEST_CASE("a batch that is filled up: blind tokens look at the fillers too") {
  Pictures pictures = with_tiles({3, 1, 1, 1});
  pictures.per_row = 2, pictures.is_filler = {false, true, true, true};
  CHECK(show(look(at::cat({row({1, 12, 2}), row({3, 4, 5})}), {}, 0, pictures, nullptr)) ==
        "0:0+1 blind 0/4 1/4; 0:1+2 0/3; 1:0+3 blind 2/4 3/4");
  const auto swapped = at::cat({row({3, 4, 5}), row({1, 12, 2})});
  CHECK(error_of([&] { look(swapped, {}, 0, pictures, nullptr); }).find("row 1 has another number of image tokens (id 12)") == 0);
}

TEST_CASE("what is generated looks where the text before it did, after a cut too") {
  Marks marks(1);
  look(row({1, 12, 2}), {}, 0, with_tiles({2}), &marks);
  CHECK(show(look(row({5}), {}, 3, with_tiles({}), &marks)) == "0:0+1 0/2");
  Pictures later = with_tiles({4});
  later.first = 1;
  CHECK(show(look(row({5, 12, 6}), {}, 4, later, &marks)) == "0:0+1 0/2; 0:1+2 1/4");
  CHECK(show(look(row({5}), {}, 7, with_tiles({}), &marks)) == "0:0+1 1/4");
  cut_marks(marks, 4);
  CHECK(show(look(row({5}), {}, 4, with_tiles({}), &marks)) == "0:0+1 0/2");
  cut_marks(marks, 1);
  CHECK(show(look(row({5}), {}, 1, with_tiles({}), &marks)) == "0:0+1 blind 0/4");
  // A call that ends with a picture, and one that begins with one.
  cut_marks(marks, 0);
  look(row({1, 12}), {}, 0, with_tiles({2}), &marks);
  CHECK(show(look(row({12, 6}), {}, 2, later, &marks)) == "0:0+2 0/2 1/4");
}

TEST_CASE("stretches survive their way through a tensor") {
  const std::vector<Stretch> all = look(at::cat({row({1, 12, 12, 2}), row({3, 4, 0, 0})}), at::cat({row({1, 1, 1, 1}), row({1, 1, 0, 0})}),
                                        0, with_tiles({2, 3}), nullptr);
  CHECK(show(unpack(pack(all))) == show(all));
}

TEST_CASE("image tokens and pictures that do not match are refused") {
  CHECK(error_of([] {
          look(row({1, 12, 12}), {}, 0, with_tiles({1}), nullptr);
        }) == "the batch has 2 image tokens (id 12) and 1 pictures: each stands at one token");
}

TEST_CASE("canvases: the least enlargement, else the least reduction, with the fewest tiles") {
  const auto check = [](Size picture, Size tiles, Size inside, int64_t id) {
    CAPTURE(picture.height);
    CAPTURE(picture.width);
    const Canvas canvas = fit_canvas(picture, 4, 560);
    CHECK(canvas.tiles == tiles);
    CHECK(canvas.picture == inside);
    CHECK(canvas.ratio_id == id);
  };
  // From transformers' get_optimal_tiled_canvas and get_image_size_fit_to_canvas.
  check({300, 451}, {1, 1}, {372, 560}, 1);
  check({400, 600}, {1, 2}, {400, 600}, 2);
  check({1, 1}, {1, 1}, {560, 560}, 1);
  check({200, 3}, {1, 1}, {560, 8}, 1);
  check({5, 3333}, {1, 4}, {3, 2240}, 4);
  check({1000, 872}, {2, 2}, {1000, 872}, 6);
  check({3000, 1000}, {3, 1}, {1680, 560}, 7);
  CHECK(tile_layouts(4).size() == 8);
}

// A decoder of layers that add up what they were given, through the seams: what a llama is to this plugin.
class LayeredText final : public testing::StubText {
 public:
  explicit LayeredText(Parts& parts) : StubText(parts) {
    seams_.attention.set_default("sdpa", nn::Attention());
    seams_.norm.set_default("rms", [](const NormArgs& args) { return nn::rms_norm(args.x, args.weight, args.eps, at::kFloat); });
    seams_.mlp.set_default("mlp", [this](const MlpArgs& args) { return slot(args.layer, "mlp.down_proj").linear(args.x); });
    seams_.block.set_default("block", [this](const BlockArgs& args) {
      State& state = *args.state;
      const int64_t i = args.layer;
      at::Tensor k = slot(i, "self_attn.k_proj").linear(state.hidden).unflatten(-1, {1, 4}).transpose(1, 2);
      if (state.cache) k = static_cast<nn::KvCache*>(state.cache)->append(i, k, k).first;
      const at::Tensor q = slot(i, "self_attn.q_proj").linear(state.hidden).unflatten(-1, {2, 4}).transpose(1, 2);
      const at::Tensor mixed = seams_.attention({.q = q, .k = k, .v = k, .past = state.past, .layer = i}).transpose(1, 2).flatten(2);
      state.hidden = state.hidden + slot(i, "self_attn.o_proj").linear(mixed);
      state.hidden = state.hidden + seams_.mlp({.x = state.hidden, .layer = i, .state = &state});
      return true;
    });
  }
  State begin(const Batch& batch, Cache* cache) override {
    CHECK(batch.media.empty());
    State state = StubText::begin(batch, cache);
    auto* kv = dynamic_cast<nn::KvCache*>(cache);
    REQUIRE((kv != nullptr) == (cache != nullptr));
    nn::place_tokens(batch, kv, state);
    return state;
  }
  void run_block(int stack, int64_t i, State& state) override {
    CHECK(stack == 0);
    CHECK(i < blueprint().stacks[0].count);
    seams_.block({.state = &state, .stack = stack, .layer = i});
  }
  at::Tensor finish(State& state) override {
    if (state.cache) dynamic_cast<nn::KvCache&>(*state.cache).commit(state.hidden.size(1));
    return state.hidden;
  }

 private:
  Slot& slot(int64_t layer, const char* name) const { return parts_.slot(concat("model.layers.", layer, ".", name)); }
};

Blueprint text_blueprint(const Value& config) {
  CHECK(config.at("model_type").as_string() == "llama");
  const int64_t layers = config.at("num_hidden_layers").as_int();
  Blueprint b;
  b.vocab_size = kVocab, b.hidden_size = kWidth, b.context_length = config.at("max_position_embeddings").as_int();
  b.stacks = {{"model.layers", layers}};
  b.block_activations = {{}};
  b.cache_elements_per_token = static_cast<double>(8 * layers);
  testing::add_slot(b, "model.embed_tokens", kVocab, kWidth, -1, SlotKind::Embedding).role = SlotRole::InputEmbedding;
  for (int64_t i = 0; i < layers; ++i) {
    const std::string layer = concat("model.layers.", i, "."), group = layer + "self_attn.qkv";
    for (const auto& [name, out] : {std::pair{"q_proj", 8}, std::pair{"k_proj", 4}, std::pair{"v_proj", 4}})
      testing::add_slot(b, layer + "self_attn." + name, out, kWidth, i).input_group = group;
    testing::add_slot(b, layer + "self_attn.o_proj", kWidth, 8, i);
    testing::add_slot(b, layer + "mlp.down_proj", kWidth, kWidth, i);
    for (const char* norm : {"input_layernorm.weight", "post_attention_layernorm.weight"}) {
      DenseSpec tensor;
      tensor.path = layer + norm, tensor.shape = {kWidth}, tensor.stack = 0, tensor.block = i;
      tensor.sources = {Source::rename(tensor.path)};
      b.tensors.push_back(tensor);
    }
  }
  testing::add_slot(b, "lm_head", kVocab, kWidth, -1).role = SlotRole::OutputHead;
  return b;
}

using Entries = std::initializer_list<Value::Entry>;

Value config(Entries extra = {}, Entries vision_extra = {}, Entries text_extra = {}) {
  Value vision = Value::table(), text = Value::table(), all = Value::table();
  vision.set("hidden_size", 8), vision.set("intermediate_size", 6), vision.set("num_hidden_layers", 3), vision.set("num_global_layers", 2);
  vision.set("attention_heads", 2), vision.set("image_size", 4), vision.set("patch_size", 2), vision.set("vision_output_dim", 24);
  vision.set("intermediate_layers_indices", Value::List{2, 0});
  text.set("vocab_size", kVocab), text.set("hidden_size", kWidth), text.set("num_hidden_layers", 4), text.set("num_attention_heads", 2);
  text.set("num_key_value_heads", 1), text.set("cross_attention_layers", Value::List{0, 2, 7});
  for (const auto& [key, value] : vision_extra) vision.set(key, value);
  for (const auto& [key, value] : text_extra) text.set(key, value);
  all.set("vision_config", vision), all.set("text_config", text), all.set("image_token_index", kImage);
  for (const auto& [key, value] : extra) all.set(key, value);
  return all;
}

struct Mllama {
  testing::StubBackbones<LayeredText> backbones{"llama", text_blueprint};
  MllamaArchitecture architecture;
  Mllama() { architecture.use(backbones); }
  testing::TinyModel make(bool trainable = false) {
    at::manual_seed(3);
    return {architecture, config(), {}, trainable};
  }
};

std::map<std::string, at::Tensor> pictures(const std::vector<int64_t>& tiles, uint64_t seed = 1) {
  at::manual_seed(seed);
  const auto count = static_cast<int64_t>(tiles.size());
  const at::Tensor mask = at::zeros({count, 4}, at::kLong);
  for (int64_t i = 0; i < count; ++i) mask.select(0, i).narrow(0, 0, tiles[static_cast<size_t>(i)]).fill_(1);
  return {{"pixel_values", at::randn({count, 4, 3, 4, 4})},
          {"aspect_ratio_ids", at::ones({count}, at::kLong) * 3},
          {"aspect_ratio_mask", mask}};
}

TEST_CASE("a picture changes what is behind it, and a row without one not at all") {
  Mllama mllama;
  auto tiny = mllama.make();
  const at::Tensor ids = at::cat({row({1, 12, 2, 3}), row({4, 5, 6, 7})});
  const at::Tensor one = tiny.logits({.ids = ids, .media = pictures({2}, 1)}), other = tiny.logits({.ids = ids, .media = pictures({2}, 2)});
  for (int64_t t = 0; t < 4; ++t) CHECK_FALSE(one[0][t].allclose(other[0][t]));
  CHECK(one[1].allclose(tiny.logits({.ids = row({4, 5, 6, 7})})[0]));
  CHECK(one[0].allclose(tiny.logits({.ids = row({1, 12, 2, 3}), .media = pictures({2}, 1)})[0], 1e-4, 1e-6));
}

TEST_CASE("a cache goes on where the pictures are, with more of them later, and after a cut") {
  Mllama mllama;
  auto tiny = mllama.make();
  const at::Tensor ids = row({12, 12, 2, 3, 4, 12, 5, 6});
  auto media = pictures({2, 1, 4});
  const auto part = [&](int64_t first, int64_t count) {
    auto cut = media;
    for (auto& [name, tensor] : cut) tensor = tensor.narrow(0, first, count);
    return cut;
  };
  const at::Tensor whole = tiny.logits({.ids = ids, .media = media});
  const auto same = [&](const at::Tensor& got, int64_t first) { CHECK(got.allclose(whole.narrow(1, first, got.size(1)), 1e-4, 1e-6)); };
  const auto cache = tiny.model->make_cache(1, 12);
  same(tiny.logits({.ids = ids.narrow(1, 0, 1), .media = part(0, 1)}, cache.get()), 0);
  same(tiny.logits({.ids = ids.narrow(1, 1, 2), .media = part(1, 1)}, cache.get()), 1);
  for (int again = 0; again < 2; ++again) {
    for (int64_t t = 3; t < 5; ++t) same(tiny.logits({.ids = ids.narrow(1, t, 1)}, cache.get()), t);
    same(tiny.logits({.ids = ids.narrow(1, 5, 2), .media = part(2, 1)}, cache.get()), 5);
    same(tiny.logits({.ids = ids.narrow(1, 7, 1)}, cache.get()), 7);
    cache->truncate(3);
  }
}

TEST_CASE("gradients reach the tower, the projector, the layers that look and the others") {
  Mllama mllama;
  auto tiny = mllama.make(true);
  // Pictures of one and of all tiles: what is behind a token's picture, in empty tiles too, is seen.
  tiny.hidden({.ids = row({1, 12, 2, 3, 12, 5}), .media = pictures({1, 4})}).square().sum().backward();
  for (const auto& [name, parameter] : tiny.parts->parameters()) {
    // The stub's own layers take keys for values, and have no norms.
    const bool is_stub =
        name.find("language_model.layers.1.") != std::string::npos || name.find("language_model.layers.3.") != std::string::npos;
    if (name == "lm_head.weight" || (is_stub && (name.ends_with("v_proj.weight") || name.ends_with("layernorm.weight")))) continue;
    CAPTURE(name);
    REQUIRE(parameter.grad().defined());
    CHECK(parameter.grad().abs().max().item<double>() > 0);
  }
}

TEST_CASE("media that do not fit are refused") {
  Mllama mllama;
  auto tiny = mllama.make();
  const auto run = [&](const std::map<std::string, at::Tensor>& media) {
    return error_of([&] { tiny.logits({.ids = row({1, 12, 2}), .media = media}); });
  };
  auto media = pictures({2});
  CHECK(run(media) == "no error");
  media["pixel_values"] = at::zeros({1, 3, 3, 4, 4});
  CHECK(run(media).find("pixel_values are [1, 3, 3, 4, 4] of Float, expected [1, 4, 3, 4, 4]") == 0);
  media = pictures({2});
  media["aspect_ratio_ids"].fill_(9);
  CHECK(run(media) == "aspect_ratio_ids hold 9, expected numbers from 0 to 8");
  media = pictures({2});
  media["aspect_ratio_mask"][0][0] = 0;
  CHECK(run(media) == "aspect_ratio_mask has a row that is not one or more 1 and then 0");
  media.erase("aspect_ratio_mask");
  CHECK(run(media) == "media hold pixel_values without aspect_ratio_mask");
  CHECK(run({{"audio", at::zeros({1})}}).find("media tensor 'audio' has no use here") == 0);
  CHECK(run(pictures({1, 1})) == "the batch has 1 image tokens (id 12) and 2 pictures: each stands at one token");
}

TEST_CASE("absent keys take the class's defaults") {
  const MllamaConfig c = read_mllama_config(Value::table());
  CHECK(c.vision.hidden == 1280);
  CHECK(c.vision.layers == 32);
  CHECK(c.vision.global_layers == 8);
  CHECK(c.vision.image_size == 448);
  CHECK(c.vision.out == 7680);
  CHECK(c.vision.activation == "gelu");
  CHECK(c.vision.feature_layers == std::vector<int64_t>{3, 7, 15, 23, 30});
  CHECK(c.vision.aspect_ratios == 8);
  CHECK(c.vision.tokens() == 1025);
  CHECK(c.vision.padding() == 7);
  CHECK(c.image_token == 128256);
  CHECK(c.layers() == 40);
  for (int64_t i = 0; i < 40; ++i) CHECK(c.looks[static_cast<size_t>(i)] == (i % 5 == 3));
  CHECK(c.text.at("rope_theta").as_float() == 500000);
  CHECK(c.text.at("vocab_size").as_int() == 128256);
  CHECK(c.text.at("num_key_value_heads").as_int() == 8);
  // A table of the recipe's beside the text model's, the dtype of the whole.
  Value rope = Value::table();
  rope.set("rope_type", "linear"), rope.set("factor", 2.0), rope.set("rope_theta", 100.0);
  const MllamaConfig patched = read_mllama_config(config({{"rope_parameters", rope}, {"torch_dtype", "bfloat16"}}));
  CHECK(patched.text.at("rope_parameters").at("rope_type").as_string() == "linear");
  CHECK_FALSE(patched.text.find("rope_theta"));
  CHECK(patched.text.at("torch_dtype").as_string() == "bfloat16");
  CHECK(patched.looks == std::vector<bool>{true, false, true, false});
  CHECK(patched.vision.feature_layers == std::vector<int64_t>{2, 0});
}

TEST_CASE("configs that ask for what is not served are refused by name") {
  const auto refusal = [&](Entries extra, Entries vision = {}, Entries text = {}) {
    return error_of([&] { read_mllama_config(config(extra, vision, text)); });
  };
  const auto says = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  CHECK(refusal({}) == "no error");
  CHECK(says(refusal({}, {{"model_type", "clip_vision_model"}}), "model_type is 'clip_vision_model', expected mllama_vision_model"));
  CHECK(says(refusal({}, {{"vision_output_dim", 16}}), "vision_output_dim is 16, expected 24"));
  CHECK(says(refusal({}, {{"max_num_tiles", 6}}), "max_num_tiles is 6 without supported_aspect_ratios"));
  CHECK(says(refusal({}, {{"supported_aspect_ratios", Value::List{1, 2}}}), "supported_aspect_ratios is [1,"));
  CHECK(says(refusal({}, {{"intermediate_layers_indices", Value::List{3}}}), "intermediate_layers_indices holds 3"));
  CHECK(says(refusal({}, {{"image_size", Value::List{4, 4}}}), "image_size"));
  CHECK(says(refusal({}, {{"hidden_act", "sine"}}), "hidden_act"));
  CHECK(says(refusal({}, {}, {{"model_type", "llama"}}), "model_type is 'llama', expected mllama_text_model"));
  CHECK(says(refusal({}, {}, {{"head_dim", 8}}), "head_dim is 8"));
  CHECK(says(refusal({}, {}, {{"dropout", 0.1}}), "dropout is 0.1, expected 0"));
  CHECK(says(refusal({}, {}, {{"cross_attention_layers", "all"}}), "cross_attention_layers is"));
  CHECK(says(refusal({{"image_token_index", 19}}), "image_token_index is 19, expected less than 19"));
}

TEST_CASE("every slot says its part, layers that look have their own names, and all layouts of files are known") {
  Mllama mllama;
  const Blueprint b = mllama.architecture.blueprint(config());
  CHECK(b.model_type == "mllama");
  REQUIRE(b.stacks.size() == 3);
  CHECK(b.stacks[2].path == "model.language_model.layers");
  CHECK(b.find_slot("model.language_model.embed_tokens")->out == kVocab + 8);
  CHECK(b.find_slot("lm_head")->out == kVocab);
  CHECK(b.cache_elements_per_token == 16);
  const SlotSpec *q = b.find_slot("model.language_model.layers.2.cross_attn.q_proj"),
                 *k = b.find_slot("model.language_model.layers.2.cross_attn.k_proj");
  REQUIRE(q);
  REQUIRE(k);
  CHECK_FALSE(b.find_slot("model.language_model.layers.2.self_attn.q_proj"));
  CHECK(q->stack == 2);
  CHECK(q->part.empty());
  CHECK(q->input_group.empty());
  CHECK(k->input_group == "model.language_model.layers.2.cross_attn.qkv");
  CHECK(q->sources[0].pieces[0].tensor == "language_model.model.layers.2.cross_attn.q_proj.weight");
  CHECK(b.find_slot("lm_head")->sources[0].pieces[0].tensor == "language_model.lm_head.weight");
  CHECK(b.find_slot("model.vision_model.global_transformer.layers.1.mlp.fc1")->part == "vision");
  CHECK(b.find_slot("model.multi_modal_projector")->part == "projector");
  CHECK(b.find_slot("model.multi_modal_projector")->sources[0].pieces[0].tensor == "multi_modal_projector.weight");
}

TEST_CASE("processors: files of other models and recipes that do not fit are refused") {
  const MllamaConfig c = read_mllama_config(config());
  ProcessorFiles files;
  files.folder = "checkpoint";
  const auto refusal = [&] { return error_of([&] { MllamaProcessor(c, files); }); };
  const auto says = [&](const char* part) { return refusal().find(part) != std::string::npos; };
  CHECK(refusal() == "no error");
  files.preprocessor.set("size", Value::Table{{"height", 4}, {"width", 4}});
  CHECK(refusal() == "no error");
  files.preprocessor.set("max_image_tiles", 2);
  CHECK(says("size and max_image_tiles are 4 and 2, the tower takes at most 4 tiles of 4 pixels"));
  files.preprocessor.set("max_image_tiles", 4), files.preprocessor.set("do_pad", false), files.preprocessor.set("do_resize", false);
  CHECK(says("do_pad is false"));
  CHECK(says("do_resize is false"));
  files.preprocessor.set("size", Value::Table{{"height", 4}, {"width", 5}});
  CHECK(says("expected {height, width}, both equal"));
  files.image_size = 28;
  CHECK(refusal().find("media.image_size") == 0);
}

}  // namespace
}  // namespace tenon::vlm
