// Checks of text codecs, made from a small tokenizer in Hugging Face's format.
#include <thread>

#include "check.h"
#include "sample_text.h"

namespace tenon::conformance {

namespace {

std::unique_ptr<TextCodec> codec_of(Context& c) {
  auto codec = c.provider(&Registrar::text_codecs).make(text_files_of(c), Value::table());
  expect(codec != nullptr, "make returned nothing");
  return codec;
}

const std::vector<std::string>& texts() {
  static const auto* const all = new std::vector<std::string>{"",
                                                              "a",
                                                              "The owl mends a lamp.",
                                                              "  two  spaces\n\nand lines\t",
                                                              "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\xa6\x89",
                                                              "1234567890",
                                                              "mixed \xe6\xbc\xa2\xe5\xad\x97 text"};
  return *all;
}

void check_calls(Context& c) {
  const auto codec = codec_of(c);
  expect(codec->vocab_size() >= 256, "vocab_size() of a tokenizer of 259 tokens is ", codec->vocab_size());
  expect(!codec->encode("hello", false).ids.empty(), "encode(\"hello\") gave nothing");
  if (has_own_text_file(c))
    expect(codec->eos().has_value(), "eos() is not known");
  else
    expect(codec->eos() == std::optional<int64_t>(257), "eos() is not the tokenizer's </s>");
}

void check_round_trip(Context& c) {
  const auto codec = codec_of(c);
  for (const auto& text : texts()) {
    const Encoded encoded = codec->encode(text, false);
    for (const int64_t id : encoded.ids) expect(id >= 0 && id < codec->vocab_size(), "id ", id, " is outside the vocabulary");
    const std::string back = codec->decode(encoded.ids, false);
    expect(back == text, "'", text, "' comes back as '", back, "'");
  }
}

void check_offsets(Context& c) {
  const auto codec = codec_of(c);
  for (const auto& text : texts()) {
    const Encoded encoded = codec->encode(text, false);
    expect(encoded.offsets.size() == encoded.ids.size(), "'", text, "' has ", encoded.ids.size(), " tokens and ", encoded.offsets.size(),
           " offsets");
    for (const auto& [begin, end] : encoded.offsets)
      expect(begin <= end && end <= text.size(), "an offset of '", text, "' is [", begin, ", ", end, ") of ", text.size(), " bytes");
  }
}

void check_stream(Context& c) {
  const auto codec = codec_of(c);
  for (const auto& text : texts()) {
    const auto stream = codec->stream(true);
    expect(stream != nullptr, "stream() returned nothing");
    std::string pieces;
    const auto ids = codec->encode(text, false).ids;
    for (const int64_t id : ids) pieces += stream->push(id);
    pieces += stream->finish();
    expect(pieces == codec->decode(ids, true), "streamed, '", text, "' is '", pieces, "'");
  }
}

void check_special(Context& c) {
  const auto codec = codec_of(c);
  const bool is_own = has_own_text_file(c);
  const std::string spelling = is_own ? codec->token(codec->eos().value()) : "</s>";
  const auto id = codec->token_id(spelling);
  expect(id.has_value(), "token_id(\"", spelling, "\") is not known");
  expect(codec->token(*id) == spelling, "token(", *id, ") is '", codec->token(*id), "'");
  expect(codec->is_special(*id), spelling, " is not special");
  // A format of its own may tell what it renders from what a text spells.
  if (!is_own) expect(codec->encode(spelling, false).ids == std::vector<int64_t>{*id}, "a special token in the text is not one token");
  expect(codec->decode({*id}, true).empty(), "decode does not leave special tokens out");
  expect(!codec->token_id("no such token").has_value(), "token_id of an unknown spelling is ",
         codec->token_id("no such token").value_or(-1));
  expect(codec->token(1 << 30).empty(), "token() of an unknown id is '", codec->token(1 << 30), "'");
}

void check_render(Context& c) {
  const auto codec = codec_of(c);
  if (!codec->has_chat_template()) failed("has_chat_template() is false, the files bring one");
  auto message = [](const char* role, const char* content) { return Value(Value::Table{{"role", role}, {"content", content}}); };
  const Value messages = Value(Value::List{message("user", "why?"), message("assistant", "because")});
  if (has_own_text_file(c)) {
    const Rendered rendered = codec->render(messages, {.want_spans = true});
    expect(codec->encode(rendered.text, false).ids.back() == codec->eos(), "the assistant's turn does not end with eos()");
    expect(rendered.assistant.size() == 1, "one assistant turn has ", rendered.assistant.size(), " spans");
    const Span& said = rendered.assistant[0];
    expect(said.end <= rendered.text.size() && said.begin < said.end, "the assistant's span is [", said.begin, ", ", said.end, ")");
    const std::string text = rendered.text.substr(said.begin, said.end - said.begin);
    expect(codec->decode(codec->encode(text, false).ids, true) == "because", "the assistant's span is '", text, "'");
    return;
  }
  const Rendered plain = codec->render(messages, {});
  expect(plain.text == "<s>user:why?</s><s>assistant:because</s>", "the template gave '", plain.text, "'");
  const Rendered spans = codec->render(messages, {.want_spans = true});
  expect(spans.assistant.size() == 1, "one assistant turn has ", spans.assistant.size(), " spans");
  const Span& span = spans.assistant[0];
  expect(span.end <= spans.text.size() && spans.text.substr(span.begin, span.end - span.begin) == "because</s>",
         "the assistant's span is not 'because</s>'");
  const Rendered prompt = codec->render(Value(Value::List{message("user", "why?")}), {.add_generation_prompt = true});
  expect(prompt.text.ends_with("<s>assistant:"), "with add_generation_prompt the text ends otherwise: '", prompt.text, "'");
}

void check_threads(Context& c) {
  const auto codec = codec_of(c);
  std::vector<std::vector<int64_t>> alone;
  for (const auto& text : texts()) alone.push_back(codec->encode(text, false).ids);
  std::vector<std::string> problems(4);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < problems.size(); ++t)
    threads.emplace_back([&, t] {
      try {
        for (int repeat = 0; repeat < 20; ++repeat)
          for (size_t i = 0; i < texts().size(); ++i)
            if (codec->encode(texts()[i], false).ids != alone[i])
              problems[t] = "'" + texts()[i] + "' is encoded otherwise beside other threads";
      } catch (const std::exception& error) {
        problems[t] = error.what();
      }
    });
  for (auto& thread : threads) thread.join();
  for (const auto& problem : problems) expect(problem.empty(), problem);
}

void check_damaged(Context& c) {
  const auto& provider = c.provider(&Registrar::text_codecs);
  const std::string whole = text_files_of(c).tokenizer_json;
  for (const std::string& damaged : {std::string(), std::string("{"), whole.substr(0, whole.size() / 2), std::string("[1, 2]")}) {
    TextFiles files = text_files_of(c);
    files.tokenizer_json = damaged;
    try {
      provider.make(files, Value::table());
    } catch (const Error&) {
      continue;
    }
    failed("a damaged tokenizer file was no error");
  }
}

}  // namespace

std::vector<Check> text_checks() {
  constexpr const char* kBase = "text.calls";
  return {
      {kBase, 1, "load.names options.defaults", "The least a codec must do: tokens of a text.", check_calls},
      {"text.round_trip", 1, kBase, "What is encoded must decode to the same text, byte by byte.", check_round_trip},
      {"text.offsets", 1, kBase, "Training masks are made from offsets: one that lies outside trains on the wrong tokens.", check_offsets},
      {"text.stream", 1, kBase, "Text is shown while it is written: the pieces must be the whole.", check_stream},
      {"text.special", 1, kBase, "A special token that is split, or shown, breaks chats.", check_special},
      {"text.render", 1, kBase, "Conversations are trained on as the template writes them, and on the assistant's words alone.",
       check_render},
      {"text.threads", 1, kBase, "The host tokenizes on several threads.", check_threads},
      {"text.damaged", 1, kBase, "A damaged tokenizer file must be an error and not a crash.", check_damaged},
  };
}

}  // namespace tenon::conformance
