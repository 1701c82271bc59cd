#include "generate/generator.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <map>

#include "base/log.h"
#include "generate/chat.h"
#include "generate/prompts.h"

#include <doctest/doctest.h>

using namespace tenon;
using namespace tenon::host;

namespace {

using Ids = std::vector<int64_t>;

// Remembers the tokens of each row, padding left out.
struct FakeCache final : Cache {
  FakeCache(int64_t batch, int64_t capacity) : rows(static_cast<size_t>(batch)), capacity_(capacity) {}
  int64_t length() const override { return length_; }
  int64_t capacity() const override { return capacity_; }
  void truncate(int64_t length) override { length_ = length; }
  std::vector<Ids> rows;
  int64_t capacity_, length_ = 0;
};

// A model whose next token is a function of the tokens before it. A hidden state is the number of a remembered prefix.
class FakeModel final : public Model {
 public:
  static constexpr int64_t kVocab = 16;
  using Script = std::function<std::vector<float>(const Ids& prefix)>;
  explicit FakeModel(Script script, int64_t context = 64) : script_(std::move(script)) {
    blueprint_.context_length = context;
    blueprint_.vocab_size = kVocab;
  }
  const Blueprint& blueprint() const override { return blueprint_; }
  Seams& seams() override { return seams_; }
  State begin(const Batch& batch, Cache* cache) override {
    auto& fake = static_cast<FakeCache&>(*cache);
    const int64_t rows = batch.ids.size(0), tokens = batch.ids.size(1);
    REQUIRE(fake.length_ + tokens <= fake.capacity_);
    State state;
    state.hidden = at::empty({rows, tokens, 1}, at::kFloat);
    for (int64_t b = 0; b < rows; ++b)
      for (int64_t t = 0; t < tokens; ++t) {
        const int64_t id = batch.ids[b][t].item<int64_t>();
        if (!batch.segments.defined() || batch.segments[b][t].item<int64_t>() != 0) fake.rows[static_cast<size_t>(b)].push_back(id);
        state.hidden[b][t][0] = static_cast<double>(prefixes_.size());
        prefixes_.push_back(fake.rows[static_cast<size_t>(b)]);
      }
    fake.length_ += tokens;
    peak_length = fake.length_;
    capacity = fake.capacity_;
    return state;
  }
  void run_block(int, int64_t, State&) override {}
  at::Tensor finish(State& state) override { return state.hidden; }
  at::Tensor logits(const at::Tensor& hidden) override {
    at::Tensor out = at::empty({hidden.size(0), hidden.size(1), kVocab}, at::kFloat);
    for (int64_t b = 0; b < hidden.size(0); ++b)
      for (int64_t t = 0; t < hidden.size(1); ++t) {
        const auto values = script_(prefixes_[static_cast<size_t>(hidden[b][t][0].item<float>())]);
        for (int64_t v = 0; v < kVocab; ++v) out[b][t][v] = values[static_cast<size_t>(v)];
      }
    ++logits_calls;
    positions_asked += hidden.size(1);
    return out;
  }
  at::Tensor token_logprobs(const at::Tensor&, const at::Tensor&) override { return {}; }
  std::unique_ptr<Cache> make_cache(int64_t batch, int64_t tokens) override { return std::make_unique<FakeCache>(batch, tokens); }

  int64_t peak_length = 0, capacity = 0, logits_calls = 0, positions_asked = 0;

 private:
  Script script_;
  Blueprint blueprint_;
  Seams seams_;
  std::vector<Ids> prefixes_;
};

// Tokens 0 to 15; 0 is BOS, 1 ends. 14 and 15 are the halves of one character.
const std::vector<std::string> kSpelling{"<s>", "</s>", "a", "b", "c", "d", "e", " ", ".", "EN", "D", "U:", "A:", "\n", "\xc3", "\xa9"};

class FakeCodec final : public TextCodec {
 public:
  explicit FakeCodec(bool has_bos = true, bool has_template = true) : has_bos_(has_bos), has_template_(has_template) {}
  Encoded encode(std::string_view text, bool add_special_tokens) const override {
    Encoded encoded;
    if (add_special_tokens && has_bos_) encoded.ids.push_back(0);
    while (!text.empty()) {
      size_t id = 2;
      while (id < kSpelling.size() && !text.starts_with(kSpelling[id])) ++id;
      REQUIRE(id < kSpelling.size());
      encoded.ids.push_back(static_cast<int64_t>(id));
      text.remove_prefix(kSpelling[id].size());
    }
    return encoded;
  }
  std::string decode(const Ids& ids, bool skip) const override {
    std::string text;
    for (int64_t id : ids)
      if (!skip || id > 1) text += token(id);
    return text;
  }
  std::unique_ptr<StreamDecoder> stream(bool) const override {
    struct Decoder final : StreamDecoder {
      std::string push(int64_t id) override {
        if (id <= 1) return {};
        held += kSpelling[static_cast<size_t>(id)];
        return id == 14 ? std::string() : std::exchange(held, {});
      }
      std::string finish() override { return held.empty() ? "" : (held.clear(), "?"); }
      std::string held;
    };
    return std::make_unique<Decoder>();
  }
  std::string token(int64_t id) const override { return kSpelling[static_cast<size_t>(id)]; }
  std::optional<int64_t> token_id(std::string_view) const override { return {}; }
  int64_t vocab_size() const override { return FakeModel::kVocab; }
  std::optional<int64_t> bos() const override { return has_bos_ ? std::optional<int64_t>(0) : std::nullopt; }
  std::optional<int64_t> eos() const override { return 1; }
  std::optional<int64_t> pad() const override { return {}; }
  bool is_special(int64_t id) const override { return id <= 1; }
  bool has_chat_template() const override { return has_template_; }
  Rendered render(const Value& messages, const RenderOptions& options) const override {
    Rendered rendered;
    for (const Value& message : messages.as_list())
      rendered.text += (message.at("role").as_string() == "user"     ? "U:"
                        : message.at("role").as_string() == "system" ? "."
                                                                     : "A:") +
                       message.at("content").as_string() + "\n";
    if (options.add_generation_prompt) rendered.text += "A:";
    return rendered;
  }

 private:
  bool has_bos_, has_template_;
};

std::vector<float> favour(int64_t id) {
  std::vector<float> logits(FakeModel::kVocab, 0);
  logits[static_cast<size_t>(id)] = 5;
  return logits;
}

// Says the tokens of `script` one after another, counted from the first token after the prompt's last `mark`; then ends.
FakeModel::Script say(Ids script, int64_t mark) {
  return [script = std::move(script), mark](const Ids& prefix) {
    size_t said = 0;
    while (said < prefix.size() && prefix[prefix.size() - 1 - said] != mark) ++said;
    return favour(said < script.size() ? script[said] : 1);
  };
}

struct Fixture {
  LoadedModel loaded;
  FakeModel* model;
  explicit Fixture(FakeModel::Script script, int64_t context = 64, bool has_bos = true) {
    auto fake = std::make_unique<FakeModel>(std::move(script), context);
    model = fake.get();
    loaded.model = std::move(fake);
    loaded.text = std::make_unique<FakeCodec>(has_bos);
    loaded.config = Value::table();
    loaded.config.set("eos_token_id", 1);
  }
  Generated one(Ids prompt, GenerateSection settings = {}) {
    return generate(loaded, {.prompts = {std::move(prompt)}, .settings = std::move(settings)}).outputs.at(0);
  }
};

// A pseudo-random but fixed distribution for each prefix.
std::vector<float> scrambled(const Ids& prefix) {
  std::vector<float> logits;
  for (int64_t v = 0; v < FakeModel::kVocab; ++v) {
    uint64_t h = 0xcbf29ce484222325ull + static_cast<uint64_t>(v);
    for (int64_t id : prefix) h = (h ^ static_cast<uint64_t>(id + 1)) * 0x100000001b3ull;
    logits.push_back(static_cast<float>((h >> 20) % 1000) / 250.0f);
  }
  return logits;
}

// Log lines of one test.
struct Warnings {
  std::vector<std::string> lines;
  Warnings() {
    set_log_sink([this](LogLevel level, std::string_view text) {
      if (level == LogLevel::Warn) lines.emplace_back(text);
    });
  }
  ~Warnings() { set_log_sink(nullptr); }
};

}  // namespace

TEST_CASE("generation ends at an end token, which is among the ids and not in the text") {
  Fixture fixture(say({2, 3, 4}, 0));
  const Generated output = fixture.one({0});
  CHECK(output.ids == Ids{2, 3, 4, 1});
  CHECK(output.text == "abc");
  CHECK(output.finish_reason == "stop");
}

TEST_CASE("generation ends at max_new_tokens, and the cache is no larger than needed") {
  Fixture fixture(say({2, 3, 4}, 0));
  const Generated output = fixture.one({5, 0}, {.max_new_tokens = 2});
  CHECK(output.ids == Ids{2, 3});
  CHECK(output.finish_reason == "length");
  CHECK(fixture.model->capacity == 3);
  CHECK(fixture.model->peak_length == 3);
  CHECK(fixture.one({0}, {.max_new_tokens = 0}).ids.empty());
}

TEST_CASE("only the last position of a prompt goes through the output head") {
  Fixture fixture(say({2, 3}, 0));
  fixture.one({5, 6, 5, 6, 0});
  CHECK(fixture.model->positions_asked == fixture.model->logits_calls);
}

TEST_CASE("prompts of different lengths in one batch give what each gives alone") {
  const std::vector<Ids> prompts{{0, 2}, {0, 3, 4, 5, 6, 7}, {0}, {0, 8, 8}, {0, 9, 2, 3}};
  for (const bool samples : {false, true}) {
    CAPTURE(samples);
    GenerateSection settings{.max_new_tokens = 20, .do_sample = samples, .temperature = 0.8, .top_p = 0.9, .seed = 5};
    std::vector<Ids> alone;
    for (const size_t batch_size : {size_t{1}, size_t{2}, size_t{8}}) {
      Fixture fixture(scrambled);
      const auto outputs = generate(fixture.loaded, {.prompts = prompts, .settings = settings, .batch_size = batch_size}).outputs;
      REQUIRE(outputs.size() == prompts.size());
      std::vector<Ids> ids;
      for (const auto& output : outputs) ids.push_back(output.ids);
      if (batch_size == 1) alone = ids;
      CHECK(ids == alone);
    }
  }
}

TEST_CASE("seeds decide what is drawn") {
  Fixture fixture(scrambled);
  const GenerateSection seed_1{.max_new_tokens = 20, .do_sample = true, .seed = 1},
      seed_2{.max_new_tokens = 20, .do_sample = true, .seed = 2};
  CHECK(fixture.one({0}, seed_1).ids == fixture.one({0}, seed_1).ids);
  CHECK(fixture.one({0}, seed_1).ids != fixture.one({0}, seed_2).ids);
  const auto twice = generate(fixture.loaded, {.prompts = {{0}, {0}}, .settings = seed_1}).outputs;
  CHECK(twice[0].ids != twice[1].ids);
}

TEST_CASE("no end token is chosen before min_new_tokens") {
  Fixture fixture([](const Ids&) {
    auto logits = favour(1);
    logits[3] = 4;
    return logits;
  });
  GenerateRequest request{.prompts = {{0}}, .settings = {.max_new_tokens = 9}, .min_new_tokens = 3};
  CHECK(generate(fixture.loaded, request).outputs[0].ids == Ids{3, 3, 3, 1});
}

TEST_CASE("pieces of text stream as they appear and make up the text") {
  Fixture fixture(say({2, 14, 15, 9, 10, 3}, 0));
  std::vector<std::string> pieces;
  GenerateRequest request{.prompts = {{0}}, .settings = {.stop = {"ENDc"}}};
  request.on_piece = [&](size_t prompt, std::string_view piece) {
    CHECK(prompt == 0);
    pieces.emplace_back(piece);
  };
  const auto output = generate(fixture.loaded, request).outputs[0];
  // "END" waits in case it is the beginning of the stop string; the two halves of a character come as one.
  CHECK(pieces == std::vector<std::string>{"a", "\xc3\xa9", "ENDb"});
  CHECK(output.text ==
        "a\xc3\xa9"
        "ENDb");
  CHECK(output.finish_reason == "stop");
}

TEST_CASE("a stop string ends the text before it, across tokens") {
  Fixture fixture(say({2, 9, 10, 3, 3, 3}, 0));
  const Generated output = fixture.one({0}, {.stop = {"END"}});
  CHECK(output.text == "a");
  CHECK(output.ids == Ids{2, 9, 10});
  CHECK(output.finish_reason == "stop");
}

TEST_CASE("what is held back comes out when the length is reached") {
  Fixture fixture(say({2, 9, 14, 3}, 0));
  CHECK(fixture.one({0}, {.max_new_tokens = 2, .stop = {"END"}}).text == "aEN");
  CHECK(fixture.one({0}, {.max_new_tokens = 3, .stop = {"END"}}).text == "aEN?");
}

TEST_CASE("the context bounds what is generated, with one warning") {
  Fixture fixture([](const Ids&) { return favour(2); }, 8);
  Warnings warnings;
  const auto outputs = generate(fixture.loaded, {.prompts = {{0, 3, 3, 3, 3}, {0}}, .settings = {.max_new_tokens = 4}}).outputs;
  CHECK(outputs[0].ids.size() == 3);
  CHECK(outputs[0].finish_reason == "length");
  CHECK(outputs[1].ids.size() == 4);
  REQUIRE(warnings.lines.size() == 1);
  CHECK(warnings.lines[0].find("1 of 2 texts") != std::string::npos);
  CHECK_THROWS_WITH_AS(fixture.one(Ids(8, 3)), doctest::Contains("prompt 0 has 8 tokens"), Error);
}

TEST_CASE("settings of sampling without do_sample are warned about") {
  Fixture fixture(say({2}, 0));
  Warnings warnings;
  fixture.one({0}, {.temperature = 0.7});
  REQUIRE(warnings.lines.size() == 1);
  CHECK(warnings.lines[0].find("do_sample") != std::string::npos);
}

TEST_CASE("an empty prompt starts from BOS, or is an error where there is none") {
  Fixture fixture(say({2, 3}, 0));
  CHECK(fixture.one({}).text == "ab");
  Fixture without(say({2}, 0), 64, false);
  CHECK_THROWS_WITH_AS(without.one({}), doctest::Contains("prompt 0 is empty"), Error);
}

TEST_CASE("a cancelled generation keeps what is there") {
  Fixture fixture([](const Ids&) { return favour(2); });
  int steps = 0;
  GenerateRequest request{.prompts = {{0}, {0, 3}, {0}}, .settings = {.max_new_tokens = 20}, .batch_size = 2};
  request.cancel = [&] { return ++steps > 3; };
  const auto outputs = generate(fixture.loaded, request).outputs;
  REQUIRE(outputs.size() == 3);
  CHECK(outputs[0].ids == Ids{2, 2, 2});
  CHECK(outputs[1].text == "aaa");
  CHECK(outputs[2].ids.empty());
  for (const auto& output : outputs) CHECK(output.finish_reason == "cancelled");
}

TEST_CASE("without a tokenizer there are ids alone") {
  Fixture fixture(say({2, 3}, 0));
  fixture.loaded.text.reset();
  const Generated output = fixture.one({0});
  CHECK(output.ids == Ids{2, 3, 1});
  CHECK(output.text.empty());
}

TEST_CASE("prompts are plain text, or go through the chat template") {
  const FakeCodec codec, plain(true, false);
  const Ids as_message{11, 2, 3, 13, 12}, as_text{0, 2, 3};
  CHECK(encode_text(codec, "ab") == as_text);
  Value message = Value::table();
  message.set("role", "user");
  message.set("content", "ab");
  const Value conversation(Value::List{message});
  CHECK(encode_messages(codec, conversation) == as_message);
  CHECK(encode_prompt(codec, conversation) == as_message);
  CHECK(encode_prompt(codec, "ab") == as_text);
  CHECK_THROWS_AS(encode_prompt(codec, Value(3)), Error);
  CHECK_THROWS_WITH_AS(encode_messages(plain, conversation), doctest::Contains("no chat template"), Error);
}

TEST_CASE("a messages file holds one conversation or several") {
  Value message = Value::table();
  message.set("role", "user");
  message.set("content", "ab");
  const Value conversation(Value::List{message});
  Value wrapped = Value::table();
  wrapped.set("messages", conversation);
  CHECK(conversations_of(conversation).size() == 1);
  CHECK(conversations_of(wrapped).size() == 1);
  const auto several = conversations_of(Value(Value::List{conversation, wrapped, conversation}));
  REQUIRE(several.size() == 3);
  CHECK(several[1] == conversation);
  CHECK_THROWS_WITH_AS(conversations_of(Value(Value::List{conversation, Value("x")})), doctest::Contains("entry 1"), Error);
  CHECK_THROWS_AS(conversations_of(Value(Value::List{})), Error);
}

TEST_CASE("a chat keeps both sides of the conversation") {
  Fixture fixture(say({2, 3}, 12));
  Chat chat(fixture.loaded, {});
  std::string streamed;
  CHECK(chat.say("cc", [&](std::string_view piece) { streamed += piece; }).text == "ab");
  CHECK(streamed == "ab");
  CHECK(chat.say("d").text == "ab");
  REQUIRE(chat.messages().as_list().size() == 4);
  CHECK(chat.messages().as_list()[1].at("content") == Value("ab"));
  CHECK(chat.messages().as_list()[2].at("role") == Value("user"));
  chat.reset(".");
  REQUIRE(chat.messages().as_list().size() == 1);
  CHECK(chat.messages().as_list()[0].at("role") == Value("system"));
}

TEST_CASE("a chat forgets its oldest turns when the context is full, never the system message") {
  Fixture fixture(say({2, 3}, 12), 24);
  Warnings quiet;
  Chat chat(fixture.loaded, {.max_new_tokens = 4});
  chat.reset("e");
  for (int turn = 0; turn < 6; ++turn) CHECK(chat.say("cd").text == "ab");
  CHECK(chat.forgotten() > 0);
  CHECK(chat.messages().as_list()[0].at("role") == Value("system"));
  CHECK(chat.messages().as_list()[1].at("role") == Value("user"));
  CHECK_FALSE(quiet.lines.empty());
}

TEST_CASE("a turn that says nothing leaves the chat as it was") {
  Fixture fixture(say({2, 3}, 12));
  Chat chat(fixture.loaded, {});
  CHECK(chat.say("c", nullptr, [] { return true; }).finish_reason == "cancelled");
  CHECK(chat.messages().as_list().empty());
}
