#pragma once
// From what a user writes to token ids: plain text, or conversations through the chat template.
#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

#include "model/media_support.h"
#include "tenon/media.h"
#include "tenon/text.h"
#include "tenon/value.h"

namespace tenon::host {

// Special tokens as the tokenizer adds them (BOS).
std::vector<int64_t> encode_text(const TextCodec& text, std::string_view prompt);

// messages: a list of {role, content}; the prompt for the assistant's next turn. Error(Data) when the checkpoint has no chat template.
std::vector<int64_t> encode_messages(const TextCodec& text, const Value& messages, const Value& variables = {},
                                     bool add_generation_prompt = true);

// A string goes through encode_text, a list of messages or a table {messages} through encode_messages.
std::vector<int64_t> encode_prompt(const TextCodec& text, const Value& prompt);

// A prompt with the media of its messages, whose tokens are expanded.
struct Prompt {
  std::vector<int64_t> ids;
  std::vector<Medium> media;
};
// A string, or messages as for encode_prompt; relative paths in them lie in the working folder.
Prompt read_prompt(const TextCodec& text, const MediaSupport& support, const Value& prompt, bool add_generation_prompt = true);

// The conversations of a JSON file: one (a list of messages), or a list of them; each may be a table {messages}. Relative paths of media lie in
// the file's folder, where they are there.
std::vector<Value> read_conversations(const std::filesystem::path& file);
std::vector<Value> conversations_of(const Value& json, const std::filesystem::path& folder = {});

}  // namespace tenon::host
