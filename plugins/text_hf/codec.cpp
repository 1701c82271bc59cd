#include "codec.h"

#include "json.h"

namespace tenon::text_hf {

namespace {

text_hf_text borrow(std::string_view text) { return {text.data(), text.size()}; }

std::string take(text_hf_string text) {
  std::string copy(text.data ? text.data : "", text.size);
  text_hf_string_free(text);
  return copy;
}

// Runs call(&error) and throws what it reports.
template <class Call>
void checked(Call&& call) {
  text_hf_string error{};
  const int code = call(&error);
  if (code == TEXT_HF_OK) return;
  fail(code == TEXT_HF_INTERNAL ? ErrorCode::Plugin : ErrorCode::Data, take(error));
}

class Stream final : public StreamDecoder {
 public:
  explicit Stream(text_hf_decoding* decoding) : decoding_(decoding) {}
  std::string push(int64_t id) override {
    text_hf_string piece{};
    checked([&](text_hf_string* error) { return text_hf_decoding_push(decoding_.get(), id, &piece, error); });
    return take(piece);
  }
  std::string finish() override {
    text_hf_string piece{};
    checked([&](text_hf_string* error) { return text_hf_decoding_finish(decoding_.get(), &piece, error); });
    return take(piece);
  }

 private:
  struct Free {
    void operator()(text_hf_decoding* decoding) const { text_hf_decoding_free(decoding); }
  };
  std::unique_ptr<text_hf_decoding, Free> decoding_;
};

}  // namespace

HfCodec::HfCodec(const TextFiles& files) : folder_(files.folder) {
  const std::string config = files.tokenizer_config.is_null() ? "" : to_json(files.tokenizer_config);
  const std::string model_type = files.tokenizer_config.is_table() ? files.tokenizer_config.string_or("model_type", "") : "";
  const text_hf_files contents{borrow(files.tokenizer_json), borrow(config), {}, borrow(files.chat_template), borrow(model_type)};
  with_context(folder_, [&] {
    text_hf_codec* codec = nullptr;
    checked([&](text_hf_string* error) { return text_hf_codec_new(&contents, &codec, error); });
    codec_.reset(codec);
    std::vector<text_hf_text> tokens;
    for (const auto& token : files.add_tokens) tokens.push_back(borrow(token));
    checked([&](text_hf_string* error) { return text_hf_codec_add_tokens(codec, tokens.data(), tokens.size(), 0, nullptr, error); });
  });
}

Encoded HfCodec::encode(std::string_view text, bool add_special_tokens) const {
  text_hf_tokens tokens{};
  checked([&](text_hf_string* error) { return text_hf_encode(codec_.get(), borrow(text), add_special_tokens, &tokens, error); });
  Encoded encoded;
  encoded.ids.reserve(tokens.size);
  encoded.offsets.reserve(tokens.size);
  for (size_t i = 0; i < tokens.size; ++i) {
    encoded.ids.push_back(tokens.data[i].id);
    encoded.offsets.emplace_back(tokens.data[i].begin, tokens.data[i].end);
  }
  text_hf_tokens_free(tokens);
  return encoded;
}

std::string HfCodec::decode(const std::vector<int64_t>& ids, bool skip_special_tokens) const {
  text_hf_string text{};
  checked([&](text_hf_string* error) { return text_hf_decode(codec_.get(), ids.data(), ids.size(), skip_special_tokens, &text, error); });
  return take(text);
}

std::unique_ptr<StreamDecoder> HfCodec::stream(bool skip_special_tokens) const {
  return std::make_unique<Stream>(text_hf_decoding_new(codec_.get(), skip_special_tokens));
}

std::string HfCodec::token(int64_t id) const { return take(text_hf_token_text(codec_.get(), id)); }

std::optional<int64_t> HfCodec::token_id(std::string_view token) const {
  const int64_t id = text_hf_token_id(codec_.get(), borrow(token));
  return id < 0 ? std::nullopt : std::optional(id);
}

int64_t HfCodec::vocab_size() const { return static_cast<int64_t>(text_hf_vocab_size(codec_.get())); }

std::optional<int64_t> HfCodec::special(std::string_view name) const {
  const int64_t id = text_hf_special_id(codec_.get(), borrow(name));
  return id < 0 ? std::nullopt : std::optional(id);
}

std::optional<int64_t> HfCodec::bos() const { return special("bos_token"); }
std::optional<int64_t> HfCodec::eos() const { return special("eos_token"); }
std::optional<int64_t> HfCodec::pad() const { return special("pad_token"); }
bool HfCodec::is_special(int64_t id) const { return text_hf_is_special(codec_.get(), id) != 0; }
bool HfCodec::has_chat_template() const { return text_hf_has_chat_template(codec_.get()) != 0; }

Rendered HfCodec::render(const Value& messages, const RenderOptions& options) const {
  return with_context(folder_, [&] {
    const std::string conversation = to_json(messages);
    const std::string variables = options.variables.is_null() ? "" : to_json(options.variables);
    const int flags = (options.add_generation_prompt ? TEXT_HF_GENERATION_PROMPT : 0) | (options.want_spans ? TEXT_HF_SPANS : 0);
    text_hf_rendered out{};
    checked(
        [&](text_hf_string* error) { return text_hf_render(codec_.get(), borrow(conversation), borrow(variables), flags, &out, error); });
    Rendered rendered;
    rendered.text.assign(out.text.data ? out.text.data : "", out.text.size);
    for (size_t i = 0; i < out.span_count; ++i) rendered.assistant.push_back({out.spans[i].begin, out.spans[i].end, out.spans[i].message});
    text_hf_rendered_free(out);
    return rendered;
  });
}

}  // namespace tenon::text_hf
