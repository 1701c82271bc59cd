#pragma once
// From a record to labelled tokens: the data formats.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/conversation.h"
#include "model/media_support.h"
#include "tenon/objective.h"
#include "tenon/text.h"

namespace tenon::host {

struct FormatOptions {
  std::string format;  // chat | alpaca | prompt_completion | completion | tokenized
  FieldNames fields;
  int64_t max_length = 0;  // where `completion` cuts
  bool train_on_inputs = false;
  int64_t vocab_size = 0;                   // of the model; 0: not checked
  std::filesystem::path media_folder = {};  // of relative paths in records
  MediaSupport media = {};
};

// Labels carry the mask. What is trained: in `chat` the assistant's turns as the template's spans give them, in `alpaca` the response, in
// `prompt_completion` the completion, in `completion` and under train_on_inputs everything, in `tokenized` what its labels say. A token counts as
// inside a stretch of text when its first byte is.
class Formatter {
 public:
  // Error(Recipe) for unknown formats and fields, Error(Data) when the format needs a tokenizer, end-of-sequence token or chat template that is not there.
  Formatter(FormatOptions options, const TextCodec* text);

  // Several only for `completion`, whose text is cut every max_length tokens. Thread-safe. Error(Data) saying what the record lacks.
  std::vector<Sample> samples(const Value& record, const std::string& origin) const;

  // Whether samples of this format say themselves where a turn ends (and so must be seen to train it).
  bool has_turns() const { return options_.format != "tokenized"; }

 private:
  Sample chat(const Value& record) const;
  Sample conversation(const Conversation& conversation, size_t first_trained_message) const;
  Sample alpaca(const Value& record) const;
  Sample prompt_completion(const Value& record) const;
  std::vector<Sample> completion(const Value& record) const;
  Sample tokenized(const Value& record) const;
  Sample prompt_then_answer(const std::string& prompt, const std::string& answer, bool is_apart) const;
  void open(std::vector<int64_t>& ids) const;
  const Value& field(const Value& record, const char* name) const;
  std::string text_field(const Value& record, const char* name) const;

  FormatOptions options_;
  const TextCodec* text_;
  std::vector<int64_t> opening_;  // what the tokenizer puts in front of a text (BOS), without what it puts behind
  int64_t end_ = -1;              // EOS
};

}  // namespace tenon::host
