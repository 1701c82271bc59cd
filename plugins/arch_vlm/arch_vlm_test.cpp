// A llava around a text model of a few lines: where features land, what is refused, what trains. Parity is tests/parity/test_vlm.py.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <doctest/doctest.h>

#include "llava.h"
#include "llava_config.h"
#include "stub_text.h"
#include "support/errors.h"
#include "support/tiny_model.h"

namespace tenon::vlm {
namespace {

using testing::error_of;

constexpr int64_t kVocab = testing::kStubVocab, kImage = 7;

Value config(std::initializer_list<Value::Entry> extra = {}, std::initializer_list<Value::Entry> vision_extra = {}) {
  Value vision = Value::table(), text = Value::table(), all = Value::table();
  vision.set("hidden_size", 8), vision.set("intermediate_size", 12), vision.set("num_hidden_layers", 3),
      vision.set("num_attention_heads", 2);
  vision.set("image_size", 8), vision.set("patch_size", 4);
  for (const auto& [key, value] : vision_extra) vision.set(key, value);
  text.set("model_type", "stub");
  all.set("model_type", "llava"), all.set("vision_config", vision), all.set("text_config", text), all.set("image_token_index", kImage);
  for (const auto& [key, value] : extra) all.set(key, value);
  return all;
}

struct Llava {
  testing::StubBackbones<> backbones;
  LlavaArchitecture architecture;
  explicit Llava() { architecture.use(backbones); }
  testing::TinyModel make(const Value& config, bool trainable = false) {
    at::manual_seed(3);
    return {architecture, config, {}, trainable};
  }
};

at::Tensor row(const std::vector<int64_t>& ids) { return at::tensor(ids, at::kLong).unsqueeze(0); }

// 2 x 2 patches; without the class token 4 places a picture.
const std::vector<int64_t> kOnePicture = {1, kImage, kImage, kImage, kImage, 2};

TEST_CASE("features take the places of the image tokens and touch no other") {
  Llava llava;
  auto tiny = llava.make(config());
  const at::Tensor pixels = at::randn({1, 3, 8, 8}), other = at::randn({1, 3, 8, 8});
  const at::Tensor plain = tiny.logits({.ids = row(kOnePicture)});
  const at::Tensor seen = tiny.logits({.ids = row(kOnePicture), .media = {{"pixel_values", pixels}}});
  const at::Tensor changed = tiny.logits({.ids = row(kOnePicture), .media = {{"pixel_values", other}}});
  for (const int64_t t : {0, 5}) CHECK(seen.select(1, t).equal(plain.select(1, t)));
  for (const int64_t t : {1, 2, 3, 4}) {
    CHECK_FALSE(seen.select(1, t).allclose(plain.select(1, t)));
    CHECK_FALSE(seen.select(1, t).allclose(changed.select(1, t)));
  }
}

TEST_CASE("pictures go to their rows in order, padding aside") {
  Llava llava;
  auto tiny = llava.make(config());
  const at::Tensor pixels = at::randn({2, 3, 8, 8});
  const at::Tensor ids = at::cat({row({kImage, kImage, kImage, kImage, 1, kImage}), row({1, 2, kImage, kImage, kImage, kImage})}, 0);
  const at::Tensor segments = at::cat({row({1, 1, 1, 1, 1, 0}), row({1, 1, 1, 1, 1, 1})}, 0);
  const at::Tensor both = tiny.logits({.ids = ids, .segments = segments, .media = {{"pixel_values", pixels}}});
  for (int64_t r = 0; r < 2; ++r) {
    const at::Tensor alone = tiny.logits(
        {.ids = ids.narrow(0, r, 1), .segments = segments.narrow(0, r, 1), .media = {{"pixel_values", pixels.narrow(0, r, 1)}}});
    CHECK(both.narrow(0, r, 1).narrow(1, 0, 5).allclose(alone.narrow(1, 0, 5), 1e-5, 1e-6));
  }
}

TEST_CASE("tokens and pictures that do not match are refused, as are pixels of another size") {
  Llava llava;
  auto tiny = llava.make(config());
  const auto run = [&](const at::Tensor& pixels, const std::string& name = "pixel_values") {
    return error_of([&] { tiny.logits({.ids = row(kOnePicture), .media = {{name, pixels}}}); });
  };
  CHECK(run(at::randn({2, 3, 8, 8})) == "the batch has 4 image tokens (id 7) and 2 pictures, which take 8: 4 each");
  CHECK(run(at::randn({1, 3, 8, 9})).find("the vision tower takes [pictures, 3, 8, 8]") != std::string::npos);
  CHECK(run(at::randn({1}), "audio").find("media tensor 'audio' has no use here") != std::string::npos);
}

TEST_CASE("gradients reach the tower, the projector and the text model through a picture") {
  Llava llava;
  auto tiny = llava.make(config({{"vision_feature_layer", Value::List{-1, 0}}, {"vision_feature_select_strategy", "full"}}), true);
  std::vector<int64_t> ids = {1, kImage, kImage, kImage, kImage, kImage};
  const at::Tensor hidden = tiny.hidden({.ids = row(ids), .media = {{"pixel_values", at::randn({1, 3, 8, 8})}}});
  hidden.square().sum().backward();
  for (const auto& [name, parameter] : tiny.parts->parameters()) {
    // What nothing is computed from, and keys' biases, which softmax does not see.
    if (name.find("post_layernorm") != std::string::npos || name.ends_with("k_proj.bias") || name == "lm_head.weight") continue;
    CAPTURE(name);
    REQUIRE(parameter.grad().defined());
    CHECK(parameter.grad().abs().max().item<double>() > 0);
  }
}

TEST_CASE("layers behind the last feature are not run") {
  Llava llava;
  auto tiny = llava.make(config({{"vision_feature_layer", 1}}), true);
  tiny.hidden({.ids = row(kOnePicture), .media = {{"pixel_values", at::randn({1, 3, 8, 8})}}}).square().sum().backward();
  for (const auto& [name, parameter] : tiny.parts->parameters())
    if (name.find("encoder.layers.1.") != std::string::npos) CHECK_FALSE(parameter.grad().defined());
}

TEST_CASE("every slot says its part, and both layouts of files are known") {
  Llava llava;
  const Blueprint b = llava.architecture.blueprint(config());
  CHECK(b.model_type == "llava");
  CHECK(b.vocab_size == kVocab);
  REQUIRE(b.stacks.size() == 2);
  CHECK(b.stacks[1].path == "model.language_model.layers");
  const SlotSpec* up = b.find_slot("model.language_model.layers.0.up");
  REQUIRE(up);
  CHECK(up->part.empty());
  CHECK(up->stack == 1);
  REQUIRE(up->sources.size() == 2);
  CHECK(up->sources[0].pieces[0].tensor == "language_model.model.layers.0.up.weight");
  CHECK(up->sources[1].pieces[0].tensor == "model.language_model.layers.0.up.weight");
  CHECK(b.find_slot("lm_head")->sources[0].pieces[0].tensor == "language_model.lm_head.weight");
  CHECK(b.find_slot("model.vision_tower.encoder.layers.2.self_attn.q_proj")->part == "vision");
  CHECK(b.find_slot("model.multi_modal_projector.linear_2")->part == "projector");
}

TEST_CASE("configs that ask for what is not served are refused by name") {
  Llava llava;
  const auto refusal = [&](const Value& c) { return error_of([&] { llava.architecture.blueprint(c); }); };
  CHECK(refusal(config({}, {{"model_type", "pixtral"}})).find("vision_config.model_type is 'pixtral'") != std::string::npos);
  CHECK(refusal(config({}, {{"image_size", Value::List{8, 12}}})).find("image_size is [8,12]") != std::string::npos);
  CHECK(refusal(config({}, {{"num_attention_heads", 3}})).find("hidden_size is 8, expected a multiple") != std::string::npos);
  CHECK(refusal(config({}, {{"attention_dropout", 0.1}})).find("attention_dropout is 0.1, expected 0") != std::string::npos);
  CHECK(refusal(config({{"vision_feature_layer", 4}})).find("vision_feature_layer is 4, expected numbers from -4 to 3") !=
        std::string::npos);
  CHECK(refusal(config({{"vision_feature_select_strategy", "some"}})).find("expected default or full") != std::string::npos);
  CHECK(error_of([&] {
          llava.architecture.processor(config({{"image_token_index", 11}}), {});
        }).find("image_token_index is 11, the text model's vocabulary ends at 11") != std::string::npos);
  CHECK(refusal(config({{"text_config", 3}})).find("text_config is 3, expected a table") != std::string::npos);
  Value other = Value::table();
  other.set("model_type", "nobody");
  CHECK(refusal(config({{"text_config", other}})).find("text_config: there is no architecture 'nobody'") != std::string::npos);
}

}  // namespace
}  // namespace tenon::vlm
