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

TEST_CASE("text parts are joined, media parts need a model that takes them") {
  const ByteCodec codec;
  const Formatter chat = formatter("chat", codec);
  CHECK(
      shown(
          chat,
          R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}, {"role": "assistant", "content": "c"}]})") ==
      "<s>user:ab<|end|>assistant:[c<|end|>]");
  CHECK(error_of([&] { shown(chat, R"({"messages": [{"role": "user", "content": [{"type": "smell"}]}]})"); }) ==
        "message 1 holds a part of type 'smell', expected text, image, audio or video");
}

namespace {
// "#" stands for a picture, which takes as many tokens as its file's name has letters.
struct LettersProcessor final : Processor {
  std::vector<std::string> kinds() const override { return {"image"}; }
  int64_t placeholder(const std::string&) const override { return '#'; }
  std::vector<int64_t> tokens(const Medium& medium) const override { return std::vector<int64_t>(medium.file.size(), '#'); }
  std::map<std::string, at::Tensor> load(const std::vector<Medium>&) const override { return {}; }
};

// Writes "#" for an image part, wherever it stands in the content.
struct PartsCodec final : ByteCodec {
  Rendered render(const Value& messages, const RenderOptions& options) const override {
    Value plain = messages;
    for (Value& message : plain.as_list()) {
      Value* content = message.find("content");
      if (!content->is_list()) continue;
      std::string text;
      for (const Value& part : content->as_list()) text += part.at("type") == Value("image") ? "#" : part.at("text").as_string();
      *content = Value(text);
    }
    return ByteCodec::render(plain, options);
  }
};

Formatter seeing(const ByteCodec& codec) {
  FormatOptions options{"chat", {}, 1000, false, 0};
  options.media.processor = std::make_shared<LettersProcessor>();
  return Formatter(std::move(options), &codec);
}
}  // namespace

TEST_CASE("media take as many tokens as the processor says, and none of them is trained") {
  const PartsCodec codec;
  const Formatter chat = seeing(codec);
  const char* as_parts = R"({"messages": [{"role": "user", "content": [{"type": "image", "path": "abc"}, {"type": "text", "text": "x"}]},
                              {"role": "assistant", "content": [{"type": "text", "text": "y"}, {"type": "image", "path": "de"}]}]})";
  CHECK(shown(chat, as_parts) == "<s>user:###x<|end|>assistant:[y]##[<|end|>]");
  const Sample sample = chat.samples(parse_json(as_parts, "test"), "test:1").front();
  REQUIRE(sample.media.size() == 2);
  CHECK(sample.media[0].kind == "image");
  CHECK(sample.media[1].file == "de");
  // Marks in texts, as other trainers write them, with the files beside the messages.
  CHECK(shown(chat,
              R"({"messages": [{"role": "user", "content": "a<image>\nb"}, {"role": "assistant", "content": "c"}], "images": ["abc"]})") ==
        "<s>user:a###b<|end|>assistant:[c<|end|>]");
  CHECK(shown(chat, R"({"conversations": [{"from": "human", "value": "<image>\nb"}, {"from": "gpt", "value": "c"}], "image": "ab"})") ==
        "<s>user:##b<|end|>assistant:[c<|end|>]");
  // Without files a mark is text.
  CHECK(shown(chat, R"({"messages": [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "c"}]})") ==
        "<s>user:<image><|end|>assistant:[c<|end|>]");
}

TEST_CASE("media and their places are counted for each sample") {
  const PartsCodec codec;
  const Formatter chat = seeing(codec);
  const auto refusal = [&](const char* record) { return error_of([&] { shown(chat, record); }); };
  CHECK(refusal(R"({"messages": [{"role": "user", "content": "<image>"}], "images": ["a", "b"]})")
            .find("the record lists 2 image files, more") == 0);
  CHECK(refusal(R"({"messages": [{"role": "user", "content": "<image> <image>"}], "images": ["a"]})")
            .find("message 1: an image has no file: the record lists 1") == 0);
  CHECK(refusal(R"({"messages": [{"role": "user", "content": "a#b"}]})")
            .find("the text has 1 places for images (token 35), the messages have 0 images") == 0);
  CHECK(refusal(R"({"messages": [{"role": "user", "content": [{"type": "image", "path": "https://example.org/a"}]}]})").find("is a URL") !=
        std::string::npos);
  CHECK(refusal(R"({"messages": [{"role": "user", "content": [{"type": "image", "path": "a.png", "max_pixels": 9}]}]})")
            .find("says max_pixels") != std::string::npos);
  CHECK(refusal(R"({"messages": [{"role": "user", "content": [{"type": "image"}]}]})").find("give each part a 'path'") !=
        std::string::npos);
  CHECK(error_of([&] {
          shown(formatter("chat", codec), R"({"messages": [{"role": "user", "content": [{"type": "image", "path": "a"}]}]})");
        }) == "there is an image in the messages, and the model reads text alone");
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
