#include "token_names.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "tenon/error.h"
#include "tenon/json.h"

namespace tenon::vlm {

namespace {

Value read_json(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) return {};
  std::ostringstream text;
  text << stream.rdbuf();
  return parse_json(text.str(), file.string());
}

}  // namespace

TokenNames::TokenNames(const std::string& folder)
    : folder_(folder), config_(read_json(std::filesystem::path(folder) / "tokenizer_config.json")) {
  const Value tokenizer = read_json(std::filesystem::path(folder) / "tokenizer.json");
  if (tokenizer.is_null()) fail(ErrorCode::Data, folder, " has no tokenizer.json, which says what the tokens around pictures are");
  if (const Value* added = tokenizer.find_set("added_tokens"); added && added->is_list())
    for (const Value& token : added->as_list()) {
      const Value *id = token.find_set("id"), *content = token.find_set("content");
      if (id && id->is_int() && content && content->is_string()) ids_[content->as_string()] = id->as_int();
    }
}

std::string TokenNames::text_of(const std::string& key, const std::string& fallback) const {
  const auto look = [&](const Value* table) -> const Value* {
    const Value* value = table ? table->find_set(key) : nullptr;
    return value && value->is_table() ? value->find_set("content") : value;
  };
  for (const Value* table : {&config_, config_.find_set("extra_special_tokens"), config_.find_set("model_specific_special_tokens")})
    if (const Value* value = look(table); value && value->is_string()) return value->as_string();
  return fallback;
}

int64_t TokenNames::id_of(const std::string& text) const {
  const auto found = ids_.find(text);
  if (found == ids_.end())
    fail(ErrorCode::Data, folder_, "/tokenizer.json has no added token '", text, "', which the processor writes around pictures");
  return found->second;
}

}  // namespace tenon::vlm
