#include "data/formats.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "base/json.h"
#include "support/byte_codec.h"
#include "support/errors.h"

using namespace tenon;
using namespace tenon::host;
using tenon::testing::ByteCodec;
using tenon::testing::error_of;

namespace {

Formatter formatter(const char* format, const ByteCodec& codec, FieldNames fields = {}, bool train_on_inputs = false,
                    int64_t max_length = 1000) {
  return Formatter({format, std::move(fields), max_length, train_on_inputs, 0}, &codec);
}

// The sample as text with the trained stretches in brackets.
std::string shown(const Sample& sample) {
  const ByteCodec codec;
  std::string text;
  bool open = false;
  for (size_t i = 0; i < sample.ids.size(); ++i) {
    const bool trained = sample.labels[i] != kIgnore;
    if (trained) CHECK(sample.labels[i] == sample.ids[i]);
    if (trained != open) text += trained ? "[" : "]", open = trained;
    text += codec.token(sample.ids[i]);
  }
  return text + (open ? "]" : "");
}

std::string shown(const Formatter& f, const char* record) {
  std::string text;
  for (const Sample& sample : f.samples(parse_json(record, "test"), "test:1")) text += (text.empty() ? "" : " | ") + shown(sample);
  return text;
}

}  // namespace

TEST_CASE("chat trains the assistant's turns with their ends") {
  const ByteCodec codec;
  const Formatter chat = formatter("chat", codec);
  CHECK(shown(chat, R"({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]})") ==
        "<s>user:hi<|end|>assistant:[yo<|end|>]");
  CHECK(shown(chat,
              R"({"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]})") ==
        "<s>system:s<|end|>user:a<|end|>assistant:[b<|end|>]");
  CHECK(shown(formatter("chat", codec, {}, true), R"({"messages": [{"role": "user", "content": "a"}]})") == "[<s>user:a<|end|>]");
}

TEST_CASE("tool conversations keep their order: calls are trained, observations are not") {
  const ByteCodec codec;
  CHECK(
      shown(
          formatter("chat", codec),
          R"json({"tools": "[{\"name\": \"f\"}]", "conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "f()"},
                  {"from": "observation", "value": "4"}, {"from": "gpt", "value": "four"}]})json") ==
      "<s>[1 tools]user:q<|end|>assistant:[f()<|end|>]tool:4<|end|>assistant:[four<|end|>]");
}

TEST_CASE("a record can name its system message and switch a turn off") {
  const ByteCodec codec;
  const Formatter chat = formatter("chat", codec);
  CHECK(
      shown(
          chat,
          R"({"system": "s", "messages": [{"role": "assistant", "content": "a", "training": false}, {"role": "assistant", "content": "b"}]})") ==
      "<s>system:s<|end|>assistant:a<|end|>assistant:[b<|end|>]");
  CHECK(
      shown(chat,
            R"({"messages": [{"role": "assistant", "content": "a", "weight": 0}, {"role": "assistant", "content": "b", "weight": 1}]})") ==
      "<s>assistant:a<|end|>assistant:[b<|end|>]");
}

TEST_CASE("text parts are joined, media parts are refused") {
  const ByteCodec codec;
  const Formatter chat = formatter("chat", codec);
  CHECK(
      shown(chat, R"({"messages": [{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]})") ==
      "<s>assistant:[ab<|end|>]");
  CHECK(error_of([&] { shown(chat, R"({"messages": [{"role": "user", "content": [{"type": "image", "url": "x.png"}]}]})"); }) ==
        "message 1 holds a part of type 'image': media are not served yet");
  CHECK(error_of([&] {
          shown(chat, R"({"images": ["x.png"], "messages": [{"role": "user", "content": "a"}]})");
        }).find("media are not served yet") != std::string::npos);
}

TEST_CASE("fields are renamed, unknown ones are errors with the nearest name") {
  const ByteCodec codec;
  CHECK(shown(formatter("chat", codec, {{"messages", "dialog"}, {"role", "who"}, {"content", "what"}}),
              R"({"dialog": [{"who": "assistant", "what": "a"}]})") == "<s>assistant:[a<|end|>]");
  CHECK(error_of([&] {
          formatter("alpaca", codec, {{"instructions", "x"}});
        }) == "data.fields: format 'alpaca' has no field 'instructions', did you mean 'instruction'?: it has instruction, input, output");
  CHECK(error_of([&] { formatter("chta", codec); }).find("did you mean 'chat'?") != std::string::npos);
  CHECK(error_of([&] {
          shown(formatter("alpaca", codec), R"({"instructon": "a", "output": "b"})");
        }).find("no 'instruction' in the record, did you mean 'instructon'?") == 0);
}

TEST_CASE("broken conversations say which message and what is wrong") {
  const ByteCodec codec;
  const Formatter chat = formatter("chat", codec);
  CHECK(error_of([&] { shown(chat, R"({"text": "a"})"); }).find("no 'messages' or 'conversations' in the record") == 0);
  CHECK(error_of([&] { shown(chat, R"({"messages": []})"); }) == "the list of messages is empty");
  CHECK(error_of([&] {
          shown(chat, R"({"messages": [{"role": "user", "content": "a"}, {"content": "a"}]})");
        }).find("message 2: no role") == 0);
  CHECK(error_of([&] { shown(chat, R"({"messages": [{"role": "user"}]})"); }).find("message 1: no content") == 0);
  CHECK(error_of([&] {
          shown(chat, R"({"conversations": [{"from": "alien", "value": "a"}]})");
        }).find("message 1: unknown speaker 'alien'") == 0);
}

TEST_CASE("alpaca has the published prompts, BOS in front and EOS behind the answer") {
  const ByteCodec codec;
  const Formatter alpaca = formatter("alpaca", codec);
  CHECK(shown(alpaca, R"({"instruction": "Add.", "input": "", "output": "4"})") ==
        "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### "
        "Instruction:\nAdd.\n\n### Response:\n[4</s>]");
  CHECK(shown(alpaca, R"({"instruction": "Add.", "input": "2+2", "output": "4"})") ==
        "<s>Below is an instruction that describes a task, paired with an input that provides further context. Write a response that "
        "appropriately completes the "
        "request.\n\n### Instruction:\nAdd.\n\n### Input:\n2+2\n\n### Response:\n[4</s>]");
  CHECK(shown(formatter("alpaca", codec, {}, true), R"({"instruction": "A", "output": "4"})").starts_with("[<s>Below"));
}

TEST_CASE("prompt_completion trains the completion, of text and of messages") {
  const ByteCodec codec;
  const Formatter f = formatter("prompt_completion", codec);
  CHECK(shown(f, R"({"prompt": "ab", "completion": "cd"})") == "<s>ab[cd</s>]");
  CHECK(shown(f, R"({"prompt": "<s>ab", "completion": "cd</s>"})") == "<s>ab[cd</s>]");  // neither doubled
  CHECK(shown(f, R"({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
                     "completion": [{"role": "assistant", "content": "d"}]})") ==
        "<s>user:a<|end|>assistant:b<|end|>user:c<|end|>assistant:[d<|end|>]");
  CHECK(error_of([&] { shown(f, R"({"prompt": "a", "completion": []})"); }).find("both as text or both as messages") != std::string::npos);
}

TEST_CASE("a token belongs to the stretch in which its first byte lies") {
  // Tokens of two bytes: "bc" begins in the prompt "ab" and ends in the completion.
  struct Pairs : ByteCodec {
    Encoded encode(std::string_view text, bool) const override {
      Encoded out;
      for (size_t i = 0; i < text.size(); i += i == 0 ? 1 : 2)
        out.ids.push_back(static_cast<unsigned char>(text[i])), out.offsets.emplace_back(i, std::min(text.size(), i + (i == 0 ? 1 : 2)));
      return out;
    }
  } codec;
  const Formatter f({"prompt_completion", {}, 100, false, 0}, &codec);
  const Sample sample = f.samples(parse_json(R"({"prompt": "ab", "completion": "cde"})", "t"), "t")[0];
  CHECK(sample.ids == std::vector<int64_t>{'a', 'b', 'd', ByteCodec::kEos});
  CHECK(sample.labels == std::vector<int64_t>{kIgnore, kIgnore, 'd', ByteCodec::kEos});
}

TEST_CASE("completion is BOS, text, EOS, cut into pieces") {
  const ByteCodec codec;
  CHECK(shown(formatter("completion", codec), R"({"text": "abc"})") == "[<s>abc</s>]");
  CHECK(shown(formatter("completion", codec, {}, false, 3), R"({"text": "abcd"})") == "[<s>ab] | [cd</s>]");
  CHECK(shown(formatter("completion", codec, {}, false, 5), R"({"text": "abcd"})") == "[<s>abcd]");  // a lone EOS predicts nothing
}

TEST_CASE("tokenized records are used as they are") {
  const Formatter f({"tokenized", {}, 100, false, 10}, nullptr);
  auto sample = [&](const char* record) { return f.samples(parse_json(record, "t"), "t")[0]; };
  CHECK(sample(R"({"input_ids": [1, 2, 3], "labels": [-100, 2, 4]})").labels == std::vector<int64_t>{kIgnore, 2, 4});
  CHECK(sample(R"({"input_ids": [1, 2]})").labels == std::vector<int64_t>{1, 2});
  CHECK(sample(R"({"input_ids": [1, 2, 0], "attention_mask": [1, 1, 0]})").ids == std::vector<int64_t>{1, 2});
  CHECK(error_of([&] { sample(R"({"input_ids": [1], "labels": [1, 2]})"); }) == "labels have 2 entries, input_ids 1");
  CHECK(error_of([&] { sample(R"({"input_ids": [1, 10]})"); }) == "input_ids[1] is 10, outside the vocabulary of 10");
  CHECK(error_of([&] { sample(R"({"input_ids": [1, 2], "attention_mask": [0, 1]})"); }).find("only padding at the end") !=
        std::string::npos);
}

TEST_CASE("formats say what they need of the checkpoint") {
  CHECK(error_of([] { Formatter({"alpaca", {}, 10, false, 0}, nullptr); }).find("needs a tokenizer") != std::string::npos);
  ByteCodec codec;
  codec.has_template = false;
  CHECK(error_of([&] { formatter("chat", codec); }).find("needs a chat template") != std::string::npos);
  codec.has_eos = false;
  CHECK(error_of([&] { formatter("completion", codec); }).find("end-of-sequence") != std::string::npos);
}
