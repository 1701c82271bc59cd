#include "codec.h"

#include "conversation.h"
#include "tenon/error.h"

namespace tenon::text_tekken {

namespace {

std::string take(text_tekken_bytes bytes) {
  std::string text(bytes.data, bytes.size);
  text_tekken_bytes_free(bytes);
  return text;
}

// Bytes of tokens in, text out.
class Utf8 {
 public:
  std::string push(std::string_view bytes) { return take(text_tekken_utf8_push(utf8_.get(), bytes.data(), bytes.size())); }
  std::string flush() { return take(text_tekken_utf8_flush(utf8_.get())); }

 private:
  struct Free {
    void operator()(text_tekken_utf8* utf8) const { text_tekken_utf8_free(utf8); }
  };
  std::unique_ptr<text_tekken_utf8, Free> utf8_{text_tekken_utf8_new()};
};

// A special token ends what characters are put together from.
class Stream final : public StreamDecoder {
 public:
  Stream(const TekkenCodec& codec, bool skips_special) : codec_(codec), skips_special_(skips_special) {}
  std::string push(int64_t id) override {
    if (!codec_.is_special(id)) return utf8_.push(codec_.token(id));
    return utf8_.flush() + (skips_special_ ? "" : codec_.token(id));
  }
  std::string finish() override { return utf8_.flush(); }

 private:
  const TekkenCodec& codec_;
  bool skips_special_;
  Utf8 utf8_;
};

}  // namespace

TekkenCodec::TekkenCodec(const TextFiles& files) {
  if (!files.add_tokens.empty()) fail(ErrorCode::Recipe, "text.add_tokens: tekken.json takes no new tokens, its ids are full");
  if (!files.chat_template.empty())
    fail(ErrorCode::Recipe,
         "text.chat_template: conversations are written as the version of tekken.json asks, not by a template: leave it out");
  ::text_tekken* made = nullptr;
  text_tekken_bytes error = {};
  if (text_tekken_new(files.tokenizer_json.data(), files.tokenizer_json.size(), &made, &error))
    fail(ErrorCode::Data, files.folder, "/tekken.json: ", take(error));
  codec_.reset(made);
  vocab_size_ = text_tekken_vocab_size(made), special_count_ = text_tekken_special_count(made);
  version_ = static_cast<int>(text_tekken_version(made));
  for (int64_t id = 0; id < special_count_; ++id) {
    if (const size_t size = token(id).size()) special_lengths_.insert(size);
  }
}

void TekkenCodec::append_plain(std::string_view text, size_t begin, Encoded& encoded) const {
  text_tekken_ids ids = {};
  text_tekken_bytes error = {};
  if (text_tekken_encode(codec_.get(), text.data(), text.size(), &ids, &error)) fail(ErrorCode::Data, "the text: ", take(error));
  // Tokens are the text's bytes, cut.
  for (size_t i = 0; i < ids.size; ++i) {
    const size_t size = token(ids.data[i]).size();
    encoded.ids.push_back(ids.data[i]);
    encoded.offsets.emplace_back(begin, begin + size);
    begin += size;
  }
  text_tekken_ids_free(ids);
}

size_t TekkenCodec::special_at(std::string_view text) const {
  for (const size_t size : special_lengths_) {
    if (size > text.size()) continue;
    const int64_t id = text_tekken_id(codec_.get(), text.data(), size);
    if (id >= 0 && is_special(id)) return size;
  }
  return 0;
}

Encoded TekkenCodec::encode(std::string_view text, bool add_special_tokens) const {
  Encoded encoded;
  if (add_special_tokens) {
    if (const auto id = bos()) encoded.ids.push_back(*id), encoded.offsets.emplace_back(0, 0);
    append_plain(text, 0, encoded);
    return encoded;
  }
  size_t begin = 0;
  for (size_t at = text.find(kMark); at != std::string_view::npos; at = text.find(kMark, at)) {
    const size_t token = at + kMark.size(), size = special_at(text.substr(token));
    if (size > 0) {
      if (at > begin) append_plain(text.substr(begin, at - begin), begin, encoded);
      encoded.ids.push_back(text_tekken_id(codec_.get(), text.data() + token, size));
      encoded.offsets.emplace_back(at, token + size);
      begin = token + size;
    }
    at = token + size;
  }
  if (text.size() > begin) append_plain(text.substr(begin), begin, encoded);
  return encoded;
}

std::string TekkenCodec::decode(const std::vector<int64_t>& ids, bool skip_special_tokens) const {
  Stream stream(*this, skip_special_tokens);
  std::string text;
  for (const int64_t id : ids) text += stream.push(id);
  return text + stream.finish();
}

std::unique_ptr<StreamDecoder> TekkenCodec::stream(bool skip_special_tokens) const {
  return std::make_unique<Stream>(*this, skip_special_tokens);
}

std::string TekkenCodec::token(int64_t id) const {
  if (id < 0 || id >= vocab_size_) return "";
  return take(text_tekken_token(codec_.get(), static_cast<uint32_t>(id)));
}

std::optional<int64_t> TekkenCodec::token_id(std::string_view token) const {
  const int64_t id = text_tekken_id(codec_.get(), token.data(), token.size());
  return id < 0 ? std::nullopt : std::optional(id);
}

Rendered TekkenCodec::render(const Value& messages, const RenderOptions& options) const {
  return render_conversation(messages, options, version_);
}

}  // namespace tenon::text_tekken
