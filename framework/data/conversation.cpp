#include "data/conversation.h"

#include "base/json.h"
#include "data/media.h"

namespace tenon::host {

namespace {

std::string role_of(const std::string& speaker, bool is_sharegpt, size_t number) {
  static const std::map<std::string, std::string> roles = {
      {"human", "user"},       {"user", "user"},         {"gpt", "assistant"},           {"assistant", "assistant"},
      {"model", "assistant"},  {"chatgpt", "assistant"}, {"function_call", "assistant"}, {"system", "system"},
      {"observation", "tool"}, {"function", "tool"},     {"function_response", "tool"},  {"tool", "tool"}};
  if (auto it = roles.find(speaker); it != roles.end()) return it->second;
  // Further roles are the template's affair; ShareGPT's set is closed.
  if (!is_sharegpt) return speaker;
  fail(ErrorCode::Data, "message ", number, ": unknown speaker '", speaker,
       "', expected human, gpt, system, function_call, observation or tool");
}

// Text, or a list of parts where some are no text.
Value content_of(const Value& content, size_t number) {
  if (content.is_string()) return content;
  if (content.is_null()) return "";
  if (!content.is_list())
    fail(ErrorCode::Data, "message ", number, ": expected content as text or a list of parts, found ", content.type_name());
  if (has_media(content)) return content;
  std::string text;
  for (const Value& part : content.as_list()) {
    if (part.is_string()) {
      text += part.as_string();
      continue;
    }
    const std::string type = part.string_or("type", part.find("text") ? "text" : "?");
    if (type != "text")
      fail(ErrorCode::Data, "message ", number, " holds a part of type '", type, "', expected text, image, audio or video");
    text += part.string_or("text", "");
  }
  return text;
}

const Value* first_of(const Value& table, std::initializer_list<std::string> keys) {
  for (const auto& key : keys)
    if (const Value* value = table.find(key)) return value;
  return nullptr;
}

}  // namespace

std::string field_name(const FieldNames& fields, const std::string& canonical) {
  auto it = fields.find(canonical);
  return it == fields.end() ? canonical : it->second;
}

Conversation read_messages(const Value& messages, const FieldNames& fields, const std::filesystem::path& folder,
                           const std::vector<Medium>& listed) {
  if (!messages.is_list()) fail(ErrorCode::Data, "expected a list of messages, found ", messages.type_name());
  if (messages.as_list().empty()) fail(ErrorCode::Data, "the list of messages is empty");
  Conversation conversation;
  size_t number = 0;
  for (const Value& message : messages.as_list()) {
    ++number;
    if (!message.is_table())
      fail(ErrorCode::Data, "message ", number, ": expected a table with role and content, found ", message.type_name());
    const Value* role = first_of(message, {field_name(fields, "role"), "role"});
    const bool is_sharegpt = !role && message.find("from");
    if (is_sharegpt) role = message.find("from");
    if (!role || !role->is_string()) fail(ErrorCode::Data, "message ", number, ": no role ('", field_name(fields, "role"), "' or 'from')");
    const Value* content = first_of(message, {field_name(fields, "content"), "content", "value"});
    if (!content && !message.find_set("tool_calls"))
      fail(ErrorCode::Data, "message ", number, ": no content ('", field_name(fields, "content"), "' or 'value')");

    Value plain = Value::table();
    plain.set("role", role_of(role->as_string(), is_sharegpt, number));
    plain.set("content", content_of(content ? *content : Value(), number));
    for (const auto& [key, value] : message.as_table())
      if (&value != role && &value != content && key != "training" && key != "weight") plain.set(key, value);
    conversation.messages.as_list().push_back(std::move(plain));
    conversation.is_trainable.push_back(message.bool_or("training", true) && message.float_or("weight", 1) != 0);
  }
  conversation.media = take_media(conversation.messages, folder, listed);
  return conversation;
}

Conversation read_conversation(const Value& record, const FieldNames& fields, const std::filesystem::path& folder) {
  const Value* messages = first_of(record, {field_name(fields, "messages"), "messages", "conversations"});
  if (!messages)
    fail(ErrorCode::Data, "no '", field_name(fields, "messages"),
         "' or 'conversations' in the record: name the key in data.fields or choose another data.format");
  Conversation conversation = read_messages(*messages, fields, folder, listed_media(record));

  if (const Value* system = record.find_set(field_name(fields, "system")); system && system->is_string() && !system->as_string().empty()) {
    auto& list = conversation.messages.as_list();
    if (list.front().at("role") != Value("system")) {
      Value message = Value::table();
      message.set("role", "system");
      message.set("content", system->as_string());
      list.insert(list.begin(), std::move(message));
      conversation.is_trainable.insert(conversation.is_trainable.begin(), true);
    }
  }
  if (const Value* tools = record.find_set(field_name(fields, "tools"))) {
    const Value list = tools->is_string() && !tools->as_string().empty() ? parse_json(tools->as_string(), "tools") : *tools;
    if (list.is_list() && !list.as_list().empty()) conversation.variables.set("tools", list);
  }
  if (const Value* extra = record.find_set("chat_template_kwargs"); extra && extra->is_table())
    for (const auto& [key, value] : extra->as_table()) conversation.variables.set(key, value);
  return conversation;
}

}  // namespace tenon::host
