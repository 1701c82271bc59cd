#pragma once
// The SDK's TextCodec over the C interface of the Rust crate (text_tekken.h).
#include <memory>
#include <set>
#include <string>

#include "tenon/text.h"
#include "text_tekken.h"

namespace tenon::text_tekken {

class TekkenCodec final : public TextCodec {
 public:
  // files.tokenizer_json holds tekken.json. Error(Data) for a file that is none; Error(Recipe) for new tokens and templates, which it does not take.
  explicit TekkenCodec(const TextFiles& files);

  // With special tokens: <s> in front of a plain text, Without: of a rendered conversation, the marked tokens (conversation.h). What is
  // spelled like a special token and not marked is text.
  Encoded encode(std::string_view text, bool add_special_tokens) const override;
  std::string decode(const std::vector<int64_t>& ids, bool skip_special_tokens) const override;
  std::unique_ptr<StreamDecoder> stream(bool skip_special_tokens) const override;
  std::string token(int64_t id) const override;
  std::optional<int64_t> token_id(std::string_view token) const override;

  int64_t vocab_size() const override { return vocab_size_; }
  std::optional<int64_t> bos() const override { return token_id("<s>"); }
  std::optional<int64_t> eos() const override { return token_id("</s>"); }
  std::optional<int64_t> pad() const override { return token_id("<pad>"); }
  bool is_special(int64_t id) const override { return id >= 0 && id < special_count_; }

  bool has_chat_template() const override { return true; }
  Rendered render(const Value& messages, const RenderOptions& options) const override;

 private:
  void append_plain(std::string_view text, size_t begin, Encoded& encoded) const;
  // Length of the special token that `text` begins with; 0: none.
  size_t special_at(std::string_view text) const;

  struct Free {
    void operator()(::text_tekken* codec) const { text_tekken_free(codec); }
  };
  std::unique_ptr<::text_tekken, Free> codec_;
  int64_t vocab_size_ = 0, special_count_ = 0;
  int version_ = 0;
  std::set<size_t, std::greater<>> special_lengths_;
};

}  // namespace tenon::text_tekken
