#pragma once
// From what a user writes to token ids: plain text, or conversations through the chat template.
#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

#include "tenon/text.h"
#include "tenon/value.h"

namespace tenon::host {

// Special tokens as the tokenizer adds them (BOS).
std::vector<int64_t> encode_text(const TextCodec& text, std::string_view prompt);

// messages: a list of {role, content}; the prompt for the assistant's next turn. Error(Data) when the checkpoint has no chat template.
std::vector<int64_t> encode_messages(const TextCodec& text, const Value& messages, const Value& variables = {});

// A string goes through encode_text, a list of messages or a table {messages} through encode_messages.
std::vector<int64_t> encode_prompt(const TextCodec& text, const Value& prompt);

// The conversations of a JSON file: one (a list of messages), or a list of them; each may be a table {messages}.
std::vector<Value> read_conversations(const std::filesystem::path& file);
std::vector<Value> conversations_of(const Value& json);

}  // namespace tenon::host
