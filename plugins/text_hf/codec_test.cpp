// What the C++ side adds: values across the border, ownership, errors. The behaviour itself is tested in rust/tests.
#include "codec.h"

#include <doctest/doctest.h>

#include <functional>
#include <limits>
#include <thread>

#include "json.h"

using namespace tenon;
using text_hf::HfCodec;

namespace {

constexpr const char* kTokenizer = R"({"version": "1.0",
  "added_tokens": [{"id": 6, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
                   {"id": 7, "content": "<|im_end|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
  "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [6], "tokens": ["<s>"]}}},
  "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
  "model": {"type": "BPE", "byte_fallback": true, "vocab": {"a": 0, "b": 1, "ab": 2, "<0xC3>": 3, "<0xA9>": 4, "<0x0A>": 5}, "merges": ["a b"]}})";

constexpr const char* kTemplate =
    "{{ bos_token }}{{ opening }}{% for m in messages %}{{ m.role[0] }}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}a{% endif %}";

TextFiles files() {
  TextFiles files;
  files.tokenizer_json = kTokenizer;
  files.tokenizer_config.set("bos_token", "<s>");
  files.tokenizer_config.set("eos_token", "<|im_end|>");
  files.chat_template = kTemplate;
  files.folder = "checkpoint";
  return files;
}

Value message(const char* role, const char* content) { return Value(Value::Table{{"role", role}, {"content", content}}); }

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::Data);
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("text becomes tokens with their places, and text again") {
  const HfCodec codec(files());
  const Encoded encoded = codec.encode("ab\xC3\xA9<|im_end|>", true);
  CHECK(encoded.ids == std::vector<int64_t>{6, 2, 3, 4, 7});
  CHECK(encoded.offsets == std::vector<std::pair<size_t, size_t>>{{0, 0}, {0, 2}, {2, 4}, {2, 4}, {4, 14}});
  CHECK(codec.encode("ab", false).ids == std::vector<int64_t>{2});
  CHECK(codec.decode(encoded.ids, false) == "<s>ab\xC3\xA9<|im_end|>");
  CHECK(codec.decode(encoded.ids, true) == "ab\xC3\xA9");
  CHECK(codec.decode({}, true).empty());
  CHECK(codec.encode("", false).ids.empty());
}

TEST_CASE("a codec knows its vocabulary") {
  TextFiles with_new = files();
  with_new.add_tokens = {"<new>", "a"};
  const HfCodec codec(with_new);
  CHECK(codec.vocab_size() == 9);
  CHECK(codec.token_id("<new>") == 8);
  CHECK(codec.token(8) == "<new>");
  CHECK(codec.token(99).empty());
  CHECK(codec.token(-1).empty());
  CHECK_FALSE(codec.token_id("nothing"));
  CHECK(codec.bos() == 6);
  CHECK(codec.eos() == 7);
  CHECK_FALSE(codec.pad());
  CHECK(codec.is_special(7));
  CHECK_FALSE(codec.is_special(0));
  CHECK_FALSE(codec.is_special(-5));
}

TEST_CASE("a stream holds back incomplete characters and may outlive its codec") {
  auto codec = std::make_unique<HfCodec>(files());
  const auto stream = codec->stream(true);
  codec.reset();
  CHECK(stream->push(2) == "ab");
  CHECK(stream->push(3).empty());
  CHECK(stream->push(4).empty());
  CHECK(stream->push(7).empty());
  CHECK(stream->push(0) ==
        "\xC3\xA9"
        "a");
  CHECK(stream->push(3).empty());
  CHECK(stream->finish() == "\xEF\xBF\xBD");
}

TEST_CASE("conversations are rendered with the assistant's spans") {
  const HfCodec codec(files());
  CHECK(codec.has_chat_template());
  const Value messages(Value::List{message("user", "a"), message("assistant", "b")});
  RenderOptions options;
  options.want_spans = true;
  options.variables.set("opening", 1.0);
  const Rendered rendered = codec.render(messages, options);
  CHECK(rendered.text == "<s>1.0ua<|im_end|>\nab<|im_end|>\n");
  REQUIRE(rendered.assistant.size() == 1);
  CHECK(rendered.text.substr(rendered.assistant[0].begin, rendered.assistant[0].end - rendered.assistant[0].begin) == "b<|im_end|>");
  CHECK(rendered.assistant[0].message == 1);
  options = {};
  options.add_generation_prompt = true;
  CHECK(codec.render(messages, options).text == "<s>ua<|im_end|>\nab<|im_end|>\na");
  // One BOS: the rendered text brings it.
  CHECK(codec.encode(rendered.text, false).ids.front() == 6);
  CHECK(codec.encode(rendered.text, false).ids[1] != 6);
}

TEST_CASE("failures name the folder and what is wrong") {
  TextFiles broken = files();
  broken.tokenizer_json = broken.tokenizer_json.substr(0, 100);
  CHECK(error_of([&] { HfCodec codec(broken); }).find("checkpoint: tokenizer.json: ") == 0);
  broken = files();
  broken.chat_template = "{% if %}";
  CHECK(error_of([&] { HfCodec codec(broken); }).find("checkpoint: chat template:1: syntax error") == 0);
  broken.chat_template = "{{ raise_exception('no such role') }}";
  const HfCodec raising(broken);
  CHECK(error_of([&] { raising.render(Value(Value::List{message("x", "y")}), {}); }) == "checkpoint: chat template:1: no such role");
  CHECK(error_of([&] { raising.render(Value(1), {}); }) == "checkpoint: messages: expected a list");
  CHECK(error_of([&] { raising.encode("\xFF", false); }) == "text: not UTF-8 at byte 0");
  CHECK(error_of([&] { raising.decode({-1}, false); }) == "-1 is no token id");
  broken.chat_template.clear();
  const HfCodec silent(broken);
  CHECK_FALSE(silent.has_chat_template());
  CHECK(error_of([&] { silent.render(Value(Value::List{message("x", "y")}), {}); }).find("no chat template") != std::string::npos);
}

TEST_CASE("threads share a codec") {
  const HfCodec codec(files());
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (size_t i = 0; i < wrong.size(); ++i)
    threads.emplace_back([&codec, &count = wrong[i]] {
      for (int n = 0; n < 100; ++n) {
        count += codec.decode(codec.encode("abab", false).ids, false) != "abab";
        count += codec.render(Value(Value::List{message("u", "a")}), {}).text != "<s>ua<|im_end|>\n";
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4));
}

TEST_CASE("values become JSON") {
  Value value = Value::table();
  value.set("a\"\n", Value::List{Value(), true, 1, 1.0, 1e300, -0.5, "\\\x01", Value::list(), Value::table()});
  value.set("b", Value::table());
  CHECK(text_hf::to_json(value) == R"({"a\"\u000a":[null,true,1,1.0,1e+300,-0.5,"\\\u0001",[],{}],"b":{}})");
  CHECK_THROWS_AS(text_hf::to_json(Value(std::numeric_limits<double>::infinity())), Error);
}
