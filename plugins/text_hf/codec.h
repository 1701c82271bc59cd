#pragma once
// The SDK's TextCodec over the C interface of the Rust crate (text_hf.h).
#include <memory>

#include "tenon/text.h"
#include "text_hf.h"

namespace tenon::text_hf {

class HfCodec final : public TextCodec {
 public:
  // The key model_type of files.tokenizer_config, where the host puts config.json's, tells checkpoints apart whose tokenizer_class
  // transformers does not believe; without it tokenizer_class counts.
  explicit HfCodec(const TextFiles& files);

  Encoded encode(std::string_view text, bool add_special_tokens) const override;
  std::string decode(const std::vector<int64_t>& ids, bool skip_special_tokens) const override;
  std::unique_ptr<StreamDecoder> stream(bool skip_special_tokens) const override;
  std::string token(int64_t id) const override;
  std::optional<int64_t> token_id(std::string_view token) const override;

  int64_t vocab_size() const override;
  std::optional<int64_t> bos() const override;
  std::optional<int64_t> eos() const override;
  std::optional<int64_t> pad() const override;
  bool is_special(int64_t id) const override;

  bool has_chat_template() const override;
  Rendered render(const Value& messages, const RenderOptions& options) const override;

 private:
  std::optional<int64_t> special(std::string_view name) const;

  struct Free {
    void operator()(text_hf_codec* codec) const { text_hf_codec_free(codec); }
  };
  std::unique_ptr<text_hf_codec, Free> codec_;
  std::string folder_;
};

}  // namespace tenon::text_hf
