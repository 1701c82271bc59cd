// A vocabulary of the 256 bytes and few merges: ids, decoding, conversations. Ids of the real vocabulary are compared in tests/parity/test_tekken.py.
#include "codec.h"

#include <doctest/doctest.h>

#include <string>

#include "conversation.h"
#include "sample.h"
#include "support/errors.h"
#include "tenon/error.h"

namespace tenon::text_tekken {
namespace {

using testing::contains;
using testing::error_of;

// As a rendered conversation has them: "@" for the mark.
std::string marked(std::string text) {
  for (size_t at = 0; (at = text.find('@', at)) != std::string::npos; at += kMark.size()) text.replace(at, 1, kMark);
  return text;
}

constexpr int64_t kSpecial = 26;

TextFiles files() {
  TextFiles all;
  all.tokenizer_json = sample_tekken();
  all.folder = "checkpoint";
  return all;
}

Value message(const char* role, Value content) {
  Value value = Value::table();
  value.set("role", role), value.set("content", std::move(content));
  return value;
}
Value part(const char* type, const char* text = nullptr) {
  Value value = Value::table();
  value.set("type", type);
  if (text) value.set("text", text);
  return value;
}

TEST_CASE("plain text holds nothing special, a rendered conversation does") {
  const TekkenCodec codec(files());
  CHECK(codec.encode("ab[INST]", true).ids.size() == 1 + 1 + 6);
  CHECK(codec.encode("ab[INST]", true).ids.front() == 1);
  CHECK(codec.encode("ab[INST]", false).ids.size() == 1 + 6);
  const Encoded encoded = codec.encode(marked("@<s>@[INST]ab c@[AUDIO][/INST]@[/INST"), false);
  const std::vector<int64_t> expected = {1, 3, 282, kSpecial + ' ', kSpecial + 'c', 24};
  CHECK(std::vector<int64_t>(encoded.ids.begin(), encoded.ids.begin() + 6) == expected);
  CHECK(encoded.ids.size() == 6 + 7 + 3 + 6);
  CHECK(encoded.offsets[2] == std::pair<size_t, size_t>(15, 17));
  CHECK(encoded.offsets[5] == std::pair<size_t, size_t>(19, 29));
  CHECK(codec.decode(encoded.ids, false) == marked("<s>[INST]ab c[AUDIO][/INST]@[/INST"));
  CHECK(codec.decode(encoded.ids, true) == marked("ab c[/INST]@[/INST"));
}

TEST_CASE("pieces of a character wait for each other, a special token ends the wait") {
  const TekkenCodec codec(files());
  const auto stream = codec.stream(false);
  CHECK(stream->push(kSpecial + 0xC3) == "");
  CHECK(stream->push(kSpecial + 0xA9) == "\xC3\xA9");
  CHECK(stream->push(kSpecial + 0xC3) == "");
  CHECK(stream->push(2) == "\xEF\xBF\xBD</s>");
  CHECK(stream->push(kSpecial + 0xE2) == "");
  CHECK(stream->finish() == "\xEF\xBF\xBD");
}

TEST_CASE("conversations: turns of one role become one, sounds stand as their tokens, the assistant is marked") {
  const Value::List messages = {message("system", "be brief"),
                                message("user", Value::List{part("audio"), part("text", "what ?"), part("text", "who ?")}),
                                message("user", "and"), message("assistant", "he  "), message("user", "yes")};
  const Rendered rendered = render_conversation(messages, {.want_spans = true, .variables = {}}, 11);
  CHECK(rendered.text == marked("@<s>@[SYSTEM_PROMPT]be brief@[/SYSTEM_PROMPT]@[INST]@[BEGIN_AUDIO]@[AUDIO]what ?\n\nwho "
                                "?\n\nand@[/INST]he@</s>@[INST]yes@[/INST]"));
  REQUIRE(rendered.assistant.size() == 1);
  CHECK(rendered.text.substr(rendered.assistant[0].begin, rendered.assistant[0].end - rendered.assistant[0].begin) == marked("he@</s>"));
  CHECK(rendered.assistant[0].message == 3);
  const Value::List plain = {message("system", "be brief"), message("user", "a"), message("assistant", "b"), message("user", "c")};
  CHECK(render_conversation(plain, {}, 3).text == marked("@<s>@[INST]a@[/INST]b@</s>@[INST]be brief\n\nc@[/INST]"));
}

TEST_CASE("what is not served is refused by name") {
  const auto refusal = [](const Value& messages, int version = 11) {
    return error_of([&] { render_conversation(messages, {}, version); }, ErrorCode::Data);
  };
  CHECK(contains(refusal(Value::List{message("tool", "x")}), "message 1: role 'tool' is not served"));
  CHECK(contains(refusal(Value::List{message("user", Value::List{part("image")})}), "a part of type 'image'"));
  CHECK(contains(refusal(Value::List{message("user", Value::List{part("audio")})}, 3), "an audio part has no place"));
  CHECK(contains(refusal(Value::List{message("user", "a"), message("assistant", "")}), "message 2: the assistant says nothing"));
  CHECK(contains(refusal(Value::List{message("user", "a")}, 15), "version v15"));
  CHECK(contains(refusal(Value::List{message("user", marked("a@[INST]"))}), "message 1: the text holds U+FDD0"));
  TextFiles wrong = files();
  wrong.tokenizer_json = "{}";
  CHECK(contains(error_of([&] { TekkenCodec codec(wrong); }, ErrorCode::Data), "checkpoint/tekken.json: it is no tekken.json"));
  wrong = files(), wrong.add_tokens = {"<new>"};
  CHECK(contains(error_of([&] { TekkenCodec codec(wrong); }, ErrorCode::Recipe), "text.add_tokens"));
  wrong = files(), wrong.chat_template = "{{ x }}";
  CHECK(contains(error_of([&] { TekkenCodec codec(wrong); }, ErrorCode::Recipe), "text.chat_template"));
}

}  // namespace
}  // namespace tenon::text_tekken
