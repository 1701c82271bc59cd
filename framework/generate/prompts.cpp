#include "generate/prompts.h"

#include "base/json.h"
#include "data/media.h"

namespace tenon::host {

namespace {
bool is_message(const Value& value) {
  return value.is_table() && value.find("role") && (value.find("content") || value.find("tool_calls"));
}

// A list of messages, or nullptr.
const Value* messages_of(const Value& value) {
  const Value* list = value.is_table() ? value.find("messages") : &value;
  if (!list || !list->is_list() || list->as_list().empty()) return nullptr;
  for (const Value& message : list->as_list())
    if (!is_message(message)) return nullptr;
  return list;
}
}  // namespace

std::vector<int64_t> encode_text(const TextCodec& text, std::string_view prompt) { return text.encode(prompt, true).ids; }

std::vector<int64_t> encode_messages(const TextCodec& text, const Value& messages, const Value& variables, bool add_generation_prompt) {
  if (!text.has_chat_template())
    fail(ErrorCode::Data,
         "the checkpoint has no chat template, so messages cannot become a prompt: set text.chat_template, or give plain text");
  const Rendered rendered =
      text.render(messages, RenderOptions{.add_generation_prompt = add_generation_prompt, .want_spans = false, .variables = variables});
  return text.encode(rendered.text, false).ids;
}

std::vector<int64_t> encode_prompt(const TextCodec& text, const Value& prompt) {
  if (prompt.is_string()) return encode_text(text, prompt.as_string());
  if (const Value* messages = messages_of(prompt)) return encode_messages(text, *messages);
  fail(ErrorCode::Data, "a prompt is a text or a list of messages {role, content}, found ", prompt.type_name());
}

Prompt read_prompt(const TextCodec& text, const MediaSupport& support, const Value& prompt, bool add_generation_prompt) {
  if (prompt.is_string()) return {encode_text(text, prompt.as_string()), {}};
  const Value* list = messages_of(prompt);
  if (!list) fail(ErrorCode::Data, "a prompt is a text or a list of messages {role, content}, found ", prompt.type_name());
  Value messages = *list;
  Prompt encoded;
  encoded.media = take_media(messages, {}, prompt.is_table() ? listed_media(prompt) : std::vector<Medium>{});
  encoded.ids = encode_messages(text, messages, {}, add_generation_prompt);
  expand_media(encoded.ids, nullptr, encoded.media, support);
  return encoded;
}

std::vector<Value> conversations_of(const Value& json, const std::filesystem::path& folder) {
  auto settled = [&](const Value& record) {
    Value messages = *messages_of(record);
    settle_media(messages, folder, record.is_table() ? listed_media(record) : std::vector<Medium>{});
    return messages;
  };
  if (messages_of(json)) return {settled(json)};
  if (!json.is_list() || json.as_list().empty())
    fail(ErrorCode::Data, "expected a list of messages {role, content} or a list of such lists, found ",
         json.is_list() ? "an empty list" : json.type_name());
  std::vector<Value> conversations;
  for (size_t i = 0; i < json.as_list().size(); ++i) {
    if (!messages_of(json.as_list()[i])) fail(ErrorCode::Data, "entry ", i, " is no list of messages {role, content}");
    conversations.push_back(with_context(concat("entry ", i), [&] { return settled(json.as_list()[i]); }));
  }
  return conversations;
}

std::vector<Value> read_conversations(const std::filesystem::path& file) {
  return with_context(file.string(), [&] { return conversations_of(read_json_file(file), file.parent_path()); });
}

}  // namespace tenon::host
