#pragma once
// One conversation in the form that chat templates take, whatever form the record had.
#include <map>
#include <string>
#include <vector>

#include "tenon/value.h"

namespace tenon::host {

// Canonical name -> key in the records: the recipe's data.fields.
using FieldNames = std::map<std::string, std::string>;

struct Conversation {
  Value messages = Value::list();  // [{role, content, ...}]
  Value variables;                 // for the template: tools and what chat_template_kwargs holds
  std::vector<bool> is_trainable;  // by message: false where the record switches training off (training: false, weight: 0)
};

// Reads `messages` (role, content) or ShareGPT's `conversations` (from, value). Speakers become roles: human -> user; gpt, model, function_call ->
// assistant; observation, function, function_response -> tool. Text parts of a content list are joined; media parts are refused.
Conversation read_conversation(const Value& record, const FieldNames& fields);

// The same for a bare list of messages.
Conversation read_messages(const Value& messages, const FieldNames& fields);

// The key under which a record holds a field.
std::string field_name(const FieldNames& fields, const std::string& canonical);

}  // namespace tenon::host
