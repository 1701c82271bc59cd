#pragma once
// One conversation in the form that chat templates take, whatever form the record had.
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tenon/media.h"
#include "tenon/value.h"

namespace tenon::host {

// Canonical name -> key in the records: the recipe's data.fields.
using FieldNames = std::map<std::string, std::string>;

struct Conversation {
  Value messages = Value::list();  // [{role, content, ...}]
  Value variables;                 // for the template: tools and what chat_template_kwargs holds
  std::vector<bool> is_trainable;  // by message: false where the record switches training off (training: false, weight: 0)
  std::vector<Medium> media;       // of all messages, in order
};

// Reads `messages` (role, content) or ShareGPT's `conversations` (from, value). Speakers become roles: human -> user; gpt, model, function_call ->
// assistant; observation, function, function_response -> tool. A content that is a list of text parts is joined; one with media keeps its parts (data/media.h), also where a text marks
// the places of files that the record lists ("images"). `folder`: of relative paths.
Conversation read_conversation(const Value& record, const FieldNames& fields, const std::filesystem::path& folder = {});

// The same for a bare list of messages.
Conversation read_messages(const Value& messages, const FieldNames& fields, const std::filesystem::path& folder = {},
                           const std::vector<Medium>& listed = {});

// The key under which a record holds a field.
std::string field_name(const FieldNames& fields, const std::string& canonical);

}  // namespace tenon::host
