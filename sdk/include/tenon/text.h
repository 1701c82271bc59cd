#pragma once
// A text codec: a tokenizer and a chat template. Thread-safe after construction.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tenon/export.h"
#include "tenon/value.h"

namespace tenon {

struct Encoded {
  std::vector<int64_t> ids;
  std::vector<std::pair<size_t, size_t>> offsets;  // bytes of the text each token came from; (0, 0) for added special tokens
};

// A stretch of the rendered text, in bytes, and the message it belongs to.
struct Span {
  size_t begin = 0, end = 0;
  int64_t message = -1;
};

struct Rendered {
  std::string text;
  // What the model must learn to say: assistant turns with their end-of-turn token.
  std::vector<Span> assistant;
};

struct RenderOptions {
  bool add_generation_prompt = false;
  bool want_spans = false;  // fill Rendered::assistant; Error(Data) when the template does not allow it
  Value variables;          // further template variables (tools, documents, enable_thinking, ...)
};

// Decodes a stream of tokens; the pieces put together equal decode() of all ids.
class TENON_API StreamDecoder {
 public:
  virtual ~StreamDecoder();
  virtual std::string push(int64_t id) = 0;  // "" while a character is incomplete
  virtual std::string finish() = 0;          // what was held back
};

class TENON_API TextCodec {
 public:
  virtual ~TextCodec();

  virtual Encoded encode(std::string_view text, bool add_special_tokens) const = 0;
  virtual std::string decode(const std::vector<int64_t>& ids, bool skip_special_tokens) const = 0;
  virtual std::unique_ptr<StreamDecoder> stream(bool skip_special_tokens) const = 0;
  virtual std::string token(int64_t id) const = 0;  // its spelling, "" when unknown
  virtual std::optional<int64_t> token_id(std::string_view token) const = 0;

  virtual int64_t vocab_size() const = 0;  // added tokens included
  virtual std::optional<int64_t> bos() const = 0;
  virtual std::optional<int64_t> eos() const = 0;
  virtual std::optional<int64_t> pad() const = 0;
  virtual bool is_special(int64_t id) const = 0;

  virtual bool has_chat_template() const = 0;
  // messages: a list of tables {role, content, ...}. The text already holds the special tokens: encode it with add_special_tokens = false.
  virtual Rendered render(const Value& messages, const RenderOptions& options) const = 0;
};

// What a codec is made from: the bytes of a checkpoint's files. Absent files are empty.
struct TextFiles {
  std::string tokenizer_json;
  Value tokenizer_config;     // tokenizer_config.json with special_tokens_map.json merged in
  std::string chat_template;  // of the recipe, else chat_template.jinja, else from tokenizer_config.json; empty: none
  std::string folder;         // for error texts
  std::vector<std::string> add_tokens;
};

}  // namespace tenon
