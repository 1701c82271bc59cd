#include "export/tokenizer_files.h"

#include <algorithm>

#include "base/file.h"
#include "base/json.h"
#include "tenon/error.h"

namespace tenon::host {

namespace fs = std::filesystem;

const std::vector<const char*> kTokenizerFiles = {
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
};

namespace {

Value description_of(const AddedToken& token) {
  Value entry = Value::table();
  entry.set("content", token.text);
  for (const char* key : {"single_word", "lstrip", "rstrip"}) entry.set(key, false);
  entry.set("normalized", true), entry.set("special", false);
  return entry;
}

// tokenizer_config.json lists added tokens by id, where it lists them.
Value config_with(Value config, const std::vector<AddedToken>& tokens) {
  if (Value* listed = config.find("added_tokens_decoder"); listed && listed->is_table())
    for (const AddedToken& token : tokens)
      if (const std::string id = std::to_string(token.id); !listed->find(id)) listed->set(id, description_of(token));
  return config;
}

Value ids_with(Value ids, const std::vector<AddedToken>& tokens) {
  for (const AddedToken& token : tokens) ids.set(token.text, token.id);
  return ids;
}

}  // namespace

Value with_added_tokens(Value tokenizer, const std::vector<AddedToken>& tokens) {
  if (!tokenizer.find("added_tokens")) tokenizer.set("added_tokens", Value::list());
  Value::List& list = tokenizer.find("added_tokens")->as_list();
  for (const AddedToken& token : tokens) {
    if (std::any_of(list.begin(), list.end(), [&](const Value& entry) { return entry.int_or("id", -1) == token.id; })) continue;
    Value entry = Value::table();
    entry.set("id", token.id);
    const Value description = description_of(token);
    // The library's own order of keys.
    for (const char* key : {"content", "single_word", "lstrip", "rstrip", "normalized", "special"}) entry.set(key, description.at(key));
    list.push_back(std::move(entry));
  }
  return tokenizer;
}

void write_tokenizer(const fs::path& folder, const LoadedModel& model, const fs::path& chat_template) {
  if (model.checkpoint)
    for (const char* name : kTokenizerFiles) {
      const fs::path source = model.checkpoint->folder() / name;
      std::error_code error;
      if (!fs::is_regular_file(source, error)) continue;
      const std::string file = name;
      const bool is_changed = !model.added_tokens.empty();
      if (is_changed && file == "tokenizer.json")
        write_file(folder / name, to_json(with_added_tokens(read_json_file(source), model.added_tokens), 2));
      else if (is_changed && file == "tokenizer_config.json")
        write_file(folder / name, to_json(config_with(read_json_file(source), model.added_tokens), 2) + "\n");
      else if (is_changed && file == "added_tokens.json")
        write_file(folder / name, to_json(ids_with(read_json_file(source), model.added_tokens), 2) + "\n");
      else
        write_file(folder / name, read_file(source));
    }
  if (!chat_template.empty()) write_file(folder / "chat_template.jinja", read_file(chat_template));
}

}  // namespace tenon::host
