// config.json: defaults, spellings, refusals, and the blueprint made from it.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <regex>

#include "architecture.h"
#include "blueprint.h"

namespace tenon::llama {
namespace {

Value table(std::initializer_list<Value::Entry> entries) { return Value(Value::Table(entries)); }

Value small(std::initializer_list<Value::Entry> extra = {}) {
  Value config = table({{"vocab_size", 99},
                        {"hidden_size", 32},
                        {"intermediate_size", 48},
                        {"num_hidden_layers", 2},
                        {"num_attention_heads", 4},
                        {"num_key_value_heads", 2}});
  for (const auto& [key, value] : extra) config.set(key, value);
  return config;
}

DecoderConfig read(const char* model_type, const Value& config) { return read_config(family_of(model_type), config); }

TEST_CASE("absent keys take the defaults of transformers' config classes") {
  struct Row {
    const char* type;
    int64_t vocab, intermediate, positions, kv_heads, head_dim, window;
    bool qkv_bias;
  };
  for (const Row& row : {Row{"llama", 32000, 11008, 2048, 32, 128, 0, false}, Row{"mistral", 32000, 14336, 131072, 8, 128, 4096, false},
                         Row{"qwen2", 151936, 22016, 32768, 32, 128, 0, true}, Row{"qwen3", 151936, 22016, 32768, 32, 128, 0, false}}) {
    CAPTURE(row.type);
    const DecoderConfig c = read(row.type, Value::table());
    CHECK(c.vocab_size == row.vocab);
    CHECK(c.hidden == 4096);
    CHECK(c.intermediate == row.intermediate);
    CHECK(c.layers == 32);
    CHECK(c.heads == 32);
    CHECK(c.kv_heads == row.kv_heads);
    CHECK(c.head_dim == row.head_dim);
    CHECK(c.max_positions == row.positions);
    CHECK(c.eps == 1e-6);
    CHECK(c.qkv_bias == row.qkv_bias);
    CHECK_FALSE(c.out_bias);
    CHECK_FALSE(c.mlp_bias);
    CHECK_FALSE(c.tied);
    CHECK(c.activation == "silu");
    CHECK(c.windows.back() == row.window);
    CHECK((c.dtype == at::kFloat));
  }
}

TEST_CASE("null and absent are told apart as transformers does") {
  CHECK(read("llama", small({{"num_key_value_heads", nullptr}, {"head_dim", nullptr}})).kv_heads == 4);
  CHECK(read("qwen2", small({{"num_key_value_heads", nullptr}})).kv_heads == 4);
  CHECK(read("mistral", small({{"sliding_window", nullptr}})).windows[0] == 0);
  CHECK(read("mistral", small()).windows[0] == 4096);
  CHECK(read("qwen3", small()).head_dim == 128);
  CHECK_THROWS_AS(read("qwen3", small({{"head_dim", nullptr}})), Error);
  CHECK_THROWS_AS(read("llama", small({{"hidden_size", nullptr}})), Error);
}

TEST_CASE("windows follow use_sliding_window, max_window_layers and layer_types") {
  using Windows = std::vector<int64_t>;
  const auto windows = [](const char* type, std::initializer_list<Value::Entry> extra) { return read(type, small(extra)).windows; };
  CHECK((windows("mistral", {{"sliding_window", 5}}) == Windows{5, 5}));
  CHECK((windows("llama", {{"sliding_window", 5}}) == Windows{0, 0}));
  CHECK((windows("qwen2", {{"sliding_window", 5}, {"max_window_layers", 0}}) == Windows{0, 0}));
  CHECK((windows("qwen2", {{"use_sliding_window", true}, {"sliding_window", 5}}) == Windows{0, 0}));
  CHECK((windows("qwen2", {{"use_sliding_window", true}, {"sliding_window", 5}, {"max_window_layers", 1}}) == Windows{0, 5}));
  CHECK((windows("qwen3", {{"use_sliding_window", true}, {"sliding_window", nullptr}, {"max_window_layers", 0}}) == Windows{0, 0}));
  CHECK((windows("qwen3", {{"use_sliding_window", true},
                           {"sliding_window", 5},
                           {"layer_types", Value::List{"sliding_attention", "full_attention"}}}) == Windows{5, 0}));
  CHECK((windows("llama", {{"layer_types", Value::List{"full_attention", "full_attention"}}}) == Windows{0, 0}));
}

TEST_CASE("rotary parameters are read in each spelling") {
  const auto inv_freq = [](std::initializer_list<Value::Entry> extra) {
    const DecoderConfig c = read("llama", small(extra));
    const float* f = c.rotary.inv_freq.const_data_ptr<float>();
    return std::vector<float>(f, f + 4);
  };
  const auto expected = [](double theta, double divisor) {
    std::vector<float> f;
    for (int i = 0; i < 4; ++i) f.push_back(static_cast<float>(std::pow(theta, -i / 4.0) / divisor));
    return f;
  };
  const auto check = [](const std::vector<float>& a, const std::vector<float>& b) {
    for (size_t i = 0; i < 4; ++i) CHECK(a[i] == doctest::Approx(b[i]).epsilon(1e-6));
  };
  check(inv_freq({}), expected(10000, 1));
  check(inv_freq({{"rope_theta", 500}}), expected(500, 1));
  check(inv_freq({{"rope_theta", 500.0}, {"rope_scaling", nullptr}}), expected(500, 1));
  check(inv_freq({{"rope_parameters", table({{"rope_type", "default"}, {"rope_theta", 300}})}, {"rope_theta", 9}}), expected(300, 1));
  check(inv_freq({{"rope_parameters", table({{"rope_type", "default"}})}, {"rope_theta", 900}}), expected(900, 1));
  check(inv_freq({{"rope_scaling", table({{"type", "linear"}, {"factor", 4}})}}), expected(10000, 4));
  check(inv_freq({{"rope_scaling", table({{"rope_type", "linear"}, {"factor", 2.0}})},
                  {"rope_parameters", table({{"rope_type", "default"}, {"rope_theta", 7}})}}),
        expected(10000, 2));
  check(inv_freq({{"rope_scaling", Value::table()}, {"rope_theta", 800}}), expected(800, 1));

  // Llama 3.1's numbers: frequencies of wavelength over 8192 are divided by 8, under 2048 kept, between blended.
  const DecoderConfig c = read("llama", small({{"hidden_size", 512},
                                               {"rope_theta", 500000},
                                               {"rope_scaling", table({{"rope_type", "llama3"},
                                                                       {"factor", 8},
                                                                       {"low_freq_factor", 1},
                                                                       {"high_freq_factor", 4},
                                                                       {"original_max_position_embeddings", 8192}})}}));
  const float* f = c.rotary.inv_freq.const_data_ptr<float>();
  int kept = 0, blended = 0, divided = 0;
  for (int i = 0; i < 64; ++i) {
    const double plain = std::pow(500000.0, -i / 64.0), wavelength = 2 * M_PI / plain, ratio = f[i] / plain;
    const double expected_ratio = wavelength < 2048 ? 1 : wavelength > 8192 ? 0.125 : (8192 / wavelength - 1) / 3 * 0.875 + 0.125;
    CHECK(ratio == doctest::Approx(expected_ratio).epsilon(1e-5));
    ++(wavelength < 2048 ? kept : wavelength > 8192 ? divided : blended);
  }
  CHECK(kept > 0);
  CHECK(blended > 0);
  CHECK(divided > 0);
}

TEST_CASE("what would run wrong is refused by name") {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  struct Row {
    const char* type;
    std::pair<const char*, Value> entry;
    const char* text;
  };
  const Row rows[] = {
      {"llama", {"vocab_size", 0}, "vocab_size is 0, expected 1 to "},
      {"llama", {"vocab_size", -5}, "vocab_size is -5"},
      {"llama", {"vocab_size", int64_t{1} << 62}, "vocab_size is 4611686018427387904"},
      {"llama", {"hidden_size", 1e300}, "hidden_size is 1e+300"},
      {"llama", {"hidden_size", "32"}, "hidden_size is \"32\", expected an integer"},
      {"llama", {"hidden_size", 32.5}, "hidden_size is 32.5, expected an integer"},
      {"llama", {"hidden_size", Value::list()}, "hidden_size is []"},
      {"llama", {"hidden_size", 30}, "hidden_size is 30, expected a multiple of num_attention_heads (4), or head_dim beside it"},
      {"llama", {"num_hidden_layers", 1000000}, "num_hidden_layers is 1000000"},
      {"llama", {"num_attention_heads", 0}, "num_attention_heads is 0"},
      {"llama", {"num_key_value_heads", 3}, "num_key_value_heads is 3, expected a divisor of num_attention_heads (4)"},
      {"llama", {"head_dim", 7}, "head_dim is 7, expected an even number"},
      {"llama", {"head_dim", 1000000}, "num_attention_heads times head_dim"},
      {"llama", {"rms_norm_eps", -1.0}, "rms_norm_eps is -1"},
      {"llama", {"rms_norm_eps", kNan}, "rms_norm_eps is nan"},
      {"llama", {"tie_word_embeddings", 1}, "tie_word_embeddings is 1, expected true or false"},
      {"llama", {"attention_bias", "no"}, "attention_bias is \"no\""},
      {"llama", {"hidden_act", "prelu"}, "hidden_act is \"prelu\", expected one of silu"},
      {"llama", {"hidden_act", 3}, "hidden_act is 3"},
      {"llama", {"dtype", "float8_e4m3fn"}, "dtype is \"float8_e4m3fn\""},
      {"llama", {"torch_dtype", "int8"}, "torch_dtype is \"int8\""},
      {"llama", {"max_position_embeddings", 0}, "max_position_embeddings is 0"},
      {"llama", {"partial_rotary_factor", 0.5}, "partial_rotary_factor is 0.5"},
      {"llama", {"rope_theta", -1}, "rope_theta is -1"},
      {"llama", {"rope_theta", nullptr}, "rope_theta is null"},
      {"llama", {"rope_scaling", 5}, "rope_scaling is 5, expected a table or null"},
      {"llama", {"rope_scaling", table({{"rope_type", "yarn"}, {"factor", "4"}})}, "rope_scaling.factor is \"4\", expected a number"},
      {"llama", {"rope_scaling", table({{"rope_type", "yarn"}, {"factor", 4}, {"truncate", 1}})}, "rope_scaling.truncate is 1"},
      {"llama", {"rope_scaling", table({{"type", "dynamic"}})}, "rope_scaling.factor is missing"},
      {"llama", {"rope_scaling", table({{"type", "longrope"}, {"long_factor", Value::List{1.0}}})}, "rope_scaling.short_factor is missing"},
      {"qwen2", {"rope_scaling", table({{"type", "mrope"}})}, "rope type \"mrope\", expected default, linear, dynamic"},
      {"llama", {"rope_scaling", table({{"type", "linear"}})}, "rope_scaling.factor is missing"},
      {"llama", {"rope_scaling", table({{"type", "linear"}, {"factor", 0}})}, "rope_scaling.factor is 0"},
      {"llama", {"rope_scaling", table({{"type", 3}})}, "rope_scaling.type is 3"},
      {"llama", {"rope_parameters", table({{"rope_type", "llama3"}, {"factor", 8}})}, "rope_parameters.low_freq_factor is missing"},
      {"llama",
       {"rope_parameters", table({{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 4}})},
       "expected more than low_freq_factor"},
      {"qwen3", {"rope_parameters", table({{"full_attention", table({{"rope_type", "default"}})}})}, "rotary parameters by kind of layer"},
      {"llama", {"layer_types", Value::List{"full_attention"}}, "layer_types has 1 entries, expected num_hidden_layers (2)"},
      {"llama", {"layer_types", Value::List{"full_attention", "conv"}}, "layer_types[1] is \"conv\""},
      {"llama", {"layer_types", Value::List{"full_attention", 3}}, "layer_types[1] is 3"},
      {"llama",
       {"layer_types", Value::List{"full_attention", "sliding_attention"}},
       "layer_types[1] is \"sliding_attention\", but every layer of this model_type sees all tokens"},
      {"mistral", {"layer_types", Value::List{"sliding_attention", "full_attention"}}, "but every layer of this model_type has a window"},
      {"mistral", {"sliding_window", 0}, "sliding_window is 0"},
      {"qwen2",
       {"layer_types", Value::List{"full_attention", "sliding_attention"}},
       "use_sliding_window and sliding_window give no window"},
      {"qwen2", {"use_sliding_window", nullptr}, "use_sliding_window is null"},
      {"llama", {"is_causal", false}, "is_causal is false, expected true"},
      {"qwen2", {"per_layer_config", table({{"1", table({{"rms_norm_eps", 0.1}})}})}, "per_layer_config is set"},
      {"qwen3", {"attention_dropout", 0.1}, "attention_dropout is 0.1, expected 0: dropout inside a model is not supported"},
      {"phi3", {"resid_pdrop", 0.1}, "resid_pdrop is 0.1, expected 0"},
      {"llama", {"architectures", Value::List{"LlamaForSequenceClassification"}}, "architectures names \"LlamaForSequenceClassification\""},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    Value config = small();
    config.set(row.entry.first, row.entry.second);
    try {
      read(row.type, config);
      FAIL_CHECK("accepted");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::Data);
      CHECK_MESSAGE(std::string(error.what()).find(row.text) != std::string::npos, error.what());
    }
  }
}

TEST_CASE("all problems come in one report") {
  try {
    read("llama", small({{"vocab_size", 0}, {"hidden_act", "x"}, {"rope_scaling", table({{"type", "spiral"}})}, {"mlp_bias", 7}}));
    FAIL("accepted");
  } catch (const Error& error) {
    const std::string text = error.what();
    for (const char* part : {"model_type 'llama') has 4 problems:", "\n  vocab_size", "\n  hidden_act", "\"spiral\"", "\n  mlp_bias"})
      CHECK(text.find(part) != std::string::npos);
  }
  CHECK_THROWS_AS(read("llama", Value(3)), Error);
}

TEST_CASE("the blueprint names every weight once, in the order of execution") {
  const Blueprint b = make_blueprint(read("qwen3", small({{"attention_bias", true}, {"head_dim", 6}, {"dtype", "bfloat16"}})));
  REQUIRE(b.slots.size() == 2 + 2 * 7);
  CHECK(b.slots.front().role == SlotRole::InputEmbedding);
  CHECK(b.slots.back().role == SlotRole::OutputHead);
  const SlotSpec* q = b.find_slot("model.layers.1.self_attn.q_proj");
  REQUIRE(q);
  CHECK(q->out == 24);
  CHECK(q->in == 32);
  CHECK(q->bias);
  CHECK(q->block == 1);
  CHECK(q->stack == 0);
  CHECK((q->dtype == at::kBFloat16));
  CHECK(q->sources[0].pieces[0].tensor == "model.layers.1.self_attn.q_proj.weight");
  CHECK(q->bias_sources[0].pieces[0].tensor == "model.layers.1.self_attn.q_proj.bias");
  CHECK(q->input_group == b.find_slot("model.layers.1.self_attn.v_proj")->input_group);
  CHECK(q->input_group != b.find_slot("model.layers.0.self_attn.q_proj")->input_group);
  CHECK(b.find_slot("model.layers.0.self_attn.o_proj")->bias);
  CHECK_FALSE(b.find_slot("model.layers.0.mlp.up_proj")->bias);
  CHECK(b.tensors.size() == 1 + 2 * 4);
  CHECK(b.cache_elements_per_token == 2 * 2 * 2 * 6);
  int stage = -1;
  for (const SlotSpec& slot : b.slots)
    if (slot.block == 0) {
      CHECK(slot.stage >= stage);
      stage = slot.stage;
    }
  CHECK(std::regex_match("model.layers.11.self_attn.rotary_emb.inv_freq", std::regex(b.ignorable[0])));
}

TEST_CASE("a tied head has no weight of its own") {
  const Blueprint b = make_blueprint(read("llama", small({{"tie_word_embeddings", true}})));
  CHECK(b.slots.back().tied_to == "model.embed_tokens");
  CHECK(b.slots.back().sources.empty());
  CHECK(b.slots.front().sources.size() == 2);
}

}  // namespace
}  // namespace tenon::llama
