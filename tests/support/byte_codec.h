#pragma once
// A text codec for tests: every byte is a token, "<s>", "</s>" and "<|end|>" are special ones. Its chat template puts the role on a line before the content.
#include <optional>
#include <string>
#include <vector>

#include "tenon/error.h"
#include "tenon/text.h"

namespace tenon::testing {

class ByteCodec : public TextCodec {
 public:
  static constexpr int64_t kBos = 256, kEos = 257, kEnd = 258;

  Encoded encode(std::string_view text, bool add_special_tokens) const override {
    Encoded out;
    if (add_special_tokens) out.ids.push_back(kBos), out.offsets.emplace_back(0, 0);
    for (size_t i = 0; i < text.size();) {
      const auto [id, length] = next(text.substr(i));
      out.ids.push_back(id);
      out.offsets.emplace_back(i, i + length);
      i += length;
    }
    return out;
  }
  std::string decode(const std::vector<int64_t>& ids, bool skip_special_tokens) const override {
    std::string text;
    for (int64_t id : ids)
      if (id < 256 || !skip_special_tokens) text += token(id);
    return text;
  }
  std::unique_ptr<StreamDecoder> stream(bool) const override { return nullptr; }
  std::string token(int64_t id) const override {
    if (id >= 0 && id < 256) return std::string(1, static_cast<char>(id));
    return id == kBos ? "<s>" : id == kEos ? "</s>" : id == kEnd ? "<|end|>" : "";
  }
  std::optional<int64_t> token_id(std::string_view text) const override {
    return text.empty() ? std::nullopt : std::optional(next(text).first);
  }
  int64_t vocab_size() const override { return 259; }
  std::optional<int64_t> bos() const override { return kBos; }
  std::optional<int64_t> eos() const override { return has_eos ? std::optional<int64_t>(kEos) : std::nullopt; }
  std::optional<int64_t> pad() const override { return std::nullopt; }
  bool is_special(int64_t id) const override { return id >= 256; }
  bool has_chat_template() const override { return has_template; }
  Rendered render(const Value& messages, const RenderOptions& options) const override {
    Rendered out;
    out.text = "<s>";
    if (const Value* tools = options.variables.find("tools")) out.text += concat("[", tools->as_list().size(), " tools]");
    int64_t number = 0;
    for (const Value& message : messages.as_list()) {
      const std::string role = message.at("role").as_string();
      out.text += role + ":";
      const size_t begin = out.text.size();
      out.text += message.at("content").as_string();
      if (!end_outside) out.text += "<|end|>";
      if (role == "assistant" && options.want_spans) out.assistant.push_back({begin, out.text.size(), number});
      if (end_outside) out.text += "<|end|>";
      ++number;
    }
    return out;
  }

  bool has_eos = true, has_template = true, end_outside = false;

 private:
  static std::pair<int64_t, size_t> next(std::string_view text) {
    if (text.starts_with("<s>")) return {kBos, 3};
    if (text.starts_with("</s>")) return {kEos, 4};
    if (text.starts_with("<|end|>")) return {kEnd, 7};
    return {static_cast<unsigned char>(text[0]), 1};
  }
};

}  // namespace tenon::testing
