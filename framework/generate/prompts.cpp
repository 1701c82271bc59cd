#include "generate/prompts.h"

#include "base/json.h"

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

std::vector<int64_t> encode_messages(const TextCodec& text, const Value& messages, const Value& variables) {
  if (!text.has_chat_template())
    fail(ErrorCode::Data,
         "the checkpoint has no chat template, so messages cannot become a prompt: set text.chat_template, or give plain text");
  const Rendered rendered =
      text.render(messages, RenderOptions{.add_generation_prompt = true, .want_spans = false, .variables = variables});
  return text.encode(rendered.text, false).ids;
}

std::vector<int64_t> encode_prompt(const TextCodec& text, const Value& prompt) {
  if (prompt.is_string()) return encode_text(text, prompt.as_string());
  if (const Value* messages = messages_of(prompt)) return encode_messages(text, *messages);
  fail(ErrorCode::Data, "a prompt is a text or a list of messages {role, content}, found ", prompt.type_name());
}

std::vector<Value> conversations_of(const Value& json) {
  if (const Value* messages = messages_of(json)) return {*messages};
  if (!json.is_list() || json.as_list().empty())
    fail(ErrorCode::Data, "expected a list of messages {role, content} or a list of such lists, found ",
         json.is_list() ? "an empty list" : json.type_name());
  std::vector<Value> conversations;
  for (size_t i = 0; i < json.as_list().size(); ++i) {
    const Value* messages = messages_of(json.as_list()[i]);
    if (!messages) fail(ErrorCode::Data, "entry ", i, " is no list of messages {role, content}");
    conversations.push_back(*messages);
  }
  return conversations;
}

std::vector<Value> read_conversations(const std::filesystem::path& file) {
  return with_context(file.string(), [&] { return conversations_of(read_json_file(file)); });
}

}  // namespace tenon::host
