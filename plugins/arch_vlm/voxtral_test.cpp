// A voxtral around a text model of a few lines: where features land, what is refused, what trains. Parity is tests/parity/test_voxtral.py.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <doctest/doctest.h>

#include "stub_text.h"
#include "support/errors.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"
#include "voxtral.h"
#include "voxtral_config.h"

namespace tenon::vlm {
namespace {

using testing::contains;
using testing::error_of;

constexpr int64_t kVocab = testing::kStubVocab, kAudio = 7, kMels = 5, kFrames = 8;

// A window of 8 frames gives 4 positions, two of which make a token.
Value config(std::initializer_list<Value::Entry> extra = {}, std::initializer_list<Value::Entry> audio_extra = {}) {
  Value audio = Value::table(), text = Value::table(), all = Value::table();
  audio.set("hidden_size", 8), audio.set("intermediate_size", 16), audio.set("num_hidden_layers", 2), audio.set("num_attention_heads", 2);
  audio.set("num_mel_bins", kMels), audio.set("max_source_positions", kFrames / 2);
  for (const auto& [key, value] : audio_extra) audio.set(key, value);
  text.set("model_type", "stub");
  all.set("model_type", "voxtral"), all.set("audio_config", audio), all.set("text_config", text), all.set("audio_token_id", kAudio);
  for (const auto& [key, value] : extra) all.set(key, value);
  return all;
}

struct Voxtral {
  testing::StubBackbones<> backbones;
  VoxtralArchitecture architecture;
  Voxtral() { architecture.use(backbones); }
  testing::TinyModel make(const Value& config, bool trainable = false) {
    at::manual_seed(3);
    return {architecture, config, {}, trainable};
  }
};

at::Tensor row(const std::vector<int64_t>& ids) { return at::tensor(ids, at::kLong).unsqueeze(0); }
at::Tensor sound(int64_t windows) { return at::randn({windows, kMels, kFrames}); }

const std::vector<int64_t> kOneSound = {1, kAudio, kAudio, 2};

TEST_CASE("features take the places of the audio tokens and touch no other") {
  Voxtral voxtral;
  auto tiny = voxtral.make(config());
  const at::Tensor plain = tiny.logits({.ids = row(kOneSound)});
  const at::Tensor heard = tiny.logits({.ids = row(kOneSound), .media = {{"input_features", sound(1)}}});
  const at::Tensor other = tiny.logits({.ids = row(kOneSound), .media = {{"input_features", sound(1)}}});
  for (const int64_t t : {0, 3}) CHECK(heard.select(1, t).equal(plain.select(1, t)));
  for (const int64_t t : {1, 2}) {
    CHECK_FALSE(heard.select(1, t).allclose(plain.select(1, t)));
    CHECK_FALSE(heard.select(1, t).allclose(other.select(1, t)));
  }
}

TEST_CASE("windows go to their rows in order, padding aside") {
  Voxtral voxtral;
  auto tiny = voxtral.make(config());
  const at::Tensor features = sound(3);
  const at::Tensor ids = at::cat({row({kAudio, kAudio, 1, 2, kAudio, kAudio}), row({1, kAudio, kAudio, kAudio, kAudio, 2})}, 0);
  const at::Tensor segments = at::cat({row({1, 1, 1, 1, 0, 0}), row({1, 1, 1, 1, 1, 1})}, 0);
  const at::Tensor both = tiny.logits({.ids = ids, .segments = segments, .media = {{"input_features", features}}});
  for (int64_t r = 0; r < 2; ++r) {
    const at::Tensor alone = tiny.logits(
        {.ids = ids.narrow(0, r, 1), .segments = segments.narrow(0, r, 1), .media = {{"input_features", features.narrow(0, r, r + 1)}}});
    CHECK(both.narrow(0, r, 1).narrow(1, 0, 4).allclose(alone.narrow(1, 0, 4), 1e-5, 1e-6));
  }
}

TEST_CASE("tokens and windows that do not match are refused, as are features of another shape") {
  Voxtral voxtral;
  auto tiny = voxtral.make(config());
  const auto run = [&](const at::Tensor& features, const std::string& name = "input_features") {
    return error_of([&] { tiny.logits({.ids = row(kOneSound), .media = {{name, features}}}); }, ErrorCode::Data);
  };
  CHECK(run(sound(2)) == "the batch has 2 audio tokens (id 7) and 2 windows of sound, which take 4: 2 each");
  CHECK(contains(run(at::randn({1, kMels, kFrames - 1})), "the audio tower takes [windows, 5, 8]"));
  CHECK(contains(run(sound(1), "pixel_values"), "media tensor 'pixel_values' has no use here"));
  auto deaf = voxtral.make(config({{"audio_token_id", Value()}}));
  CHECK(contains(error_of([&] { deaf.logits({.ids = row(kOneSound), .media = {{"input_features", sound(1)}}}); }), "no audio_token_id"));
}

TEST_CASE("gradients reach the encoder, the projector and the text model through a sound, its positions aside") {
  Voxtral voxtral;
  auto tiny = voxtral.make(config(), true);
  tiny.hidden({.ids = row({1, kAudio, kAudio, 3}), .media = {{"input_features", sound(1)}}}).square().sum().backward();
  for (const auto& [name, parameter] : tiny.parts->parameters()) {
    if (name == "lm_head.weight") continue;
    CAPTURE(name);
    if (contains(name, "embed_positions")) {
      CHECK_FALSE(parameter.grad().defined());
      continue;
    }
    REQUIRE(parameter.grad().defined());
    CHECK(parameter.grad().abs().max().item<double>() > 0);
  }
}

TEST_CASE("every slot says its part, both layouts of files are known, keys have no bias") {
  Voxtral voxtral;
  const Blueprint b = voxtral.architecture.blueprint(config());
  CHECK(b.model_type == "voxtral");
  REQUIRE(b.stacks.size() == 2);
  CHECK(b.stacks[0].path == "model.audio_tower.layers");
  const SlotSpec* q = b.find_slot("model.audio_tower.layers.1.self_attn.q_proj");
  REQUIRE(q);
  CHECK(q->part == "audio");
  CHECK(q->bias);
  REQUIRE(q->sources.size() == 2);
  CHECK(q->sources[0].pieces[0].tensor == "audio_tower.layers.1.self_attn.q_proj.weight");
  CHECK_FALSE(b.find_slot("model.audio_tower.layers.1.self_attn.k_proj")->bias);
  const SlotSpec* projector = b.find_slot("model.multi_modal_projector.linear_1");
  REQUIRE(projector);
  CHECK(projector->part == "projector");
  CHECK(projector->in == 16);
  CHECK_FALSE(projector->bias);
  CHECK(b.find_slot("lm_head")->sources[0].pieces[0].tensor == "language_model.lm_head.weight");
}

TEST_CASE("configs that ask for what is not served are refused by name") {
  Voxtral voxtral;
  const auto refusal = [&](const Value& c) { return error_of([&] { voxtral.architecture.blueprint(c); }, ErrorCode::Data); };
  CHECK(contains(refusal(config({}, {{"model_type", "whisper"}})), "audio_config.model_type is 'whisper'"));
  CHECK(contains(refusal(config({}, {{"num_attention_heads", 3}})), "hidden_size is 8, expected a multiple"));
  CHECK(contains(refusal(config({}, {{"activation_dropout", 0.1}})), "activation_dropout is 0.1, expected 0"));
  CHECK(contains(refusal(config({}, {{"intermediate_size", 12}})), "audio_config.intermediate_size is 12, expected a divisor"));
  CHECK(contains(refusal(config({}, {{"activation_function", "snake"}})), "activation_function is \"snake\""));
  CHECK(contains(refusal(config({{"projector_hidden_act", "snake"}})), "projector_hidden_act is \"snake\""));
  CHECK(contains(refusal(config({{"audio_config", 3}})), "audio_config is 3, expected a table"));
  for (const Value& token : {Value(kVocab), Value()})
    CHECK(contains(error_of(
                       [&] {
                         voxtral.architecture.processor(config({{"audio_token_id", token}}), {});
                       },
                       ErrorCode::Data),
                   "expected a token of the text model, 0 to 10"));
  CHECK(contains(error_of([&] { voxtral.architecture.processor(config(), {.image_size = 28}); }, ErrorCode::Recipe), "this one hears"));
}

TEST_CASE("whisper's own names of the encoder's keys count, and text keys that are left out are voxtral's") {
  const VoxtralConfig c = read_voxtral_config(config({{"text_config", Value()}}, {{"d_model", 12}, {"encoder_ffn_dim", 6}}));
  CHECK(c.audio.hidden == 12);
  CHECK(c.tokens_per_window() == 8);
  CHECK(c.text_type == "llama");
  CHECK(c.text.int_or("num_hidden_layers", 0) == 30);
  CHECK(c.text.float_or("rope_theta", 0) == 1e8);
}

}  // namespace
}  // namespace tenon::vlm
