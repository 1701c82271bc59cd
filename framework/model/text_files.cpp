#include "model/text_files.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"

namespace tenon::host {

namespace {

// A template is a string, or a list of {name, template} of which "default" counts.
std::string template_of(const Value& config) {
  const Value* found = config.find_set("chat_template");
  if (!found) return "";
  if (found->is_string()) return found->as_string();
  if (found->is_list())
    for (const auto& entry : found->as_list())
      if (entry.string_or("name", "") == "default") return entry.string_or("template", "");
  return "";
}

constexpr const char* kTokenizer = "tokenizer.json";

struct Choice {
  std::string codec, file;  // file: empty where the folder has none for the codec
};

// A codec's manifest may name another file than tokenizer.json ("text:x;file=x.json"): that codec is taken where the recipe names none and the folder has
// this file alone.
Choice choose_codec(const std::string& wanted, Registry& registry, const std::filesystem::path& folder) {
  const bool has_usual = std::filesystem::exists(folder / kTokenizer);
  if (wanted.empty() && has_usual) return {"", kTokenizer};
  std::error_code unreadable;
  for (const auto& entry : std::filesystem::directory_iterator(folder, unreadable)) {
    const std::string file = entry.path().filename().string();
    for (const std::string& name : registry.names_with("text", "file", file))
      if (wanted.empty() || wanted == name) return {name, file};
  }
  return {wanted, has_usual ? kTokenizer : ""};
}

}  // namespace

std::unique_ptr<TextCodec> load_text(const Recipe& recipe, Registry& registry, const Checkpoint& checkpoint, bool required) {
  namespace fs = std::filesystem;
  const fs::path folder = checkpoint.folder();
  const Choice choice = choose_codec(recipe.text.type, registry, folder);
  if (choice.file.empty()) {
    if (required)
      fail(ErrorCode::Data, "'", folder.string(), "' has no ", kTokenizer,
           fs::exists(folder / "tokenizer.model") ? ": it has only tokenizer.model; save it once with a fast tokenizer" : "");
    return nullptr;
  }
  try {
    TextFiles files;
    files.folder = folder.string();
    files.tokenizer_json = read_file(folder / choice.file);
    files.tokenizer_config =
        fs::exists(folder / "tokenizer_config.json") ? read_json_file(folder / "tokenizer_config.json") : Value::table();
    // As transformers: the map counts where the config lists no added tokens, and then it wins.
    if (fs::exists(folder / "special_tokens_map.json") && !files.tokenizer_config.find_set("added_tokens_decoder")) {
      const Value special = read_json_file(folder / "special_tokens_map.json");
      for (const auto& [key, value] : special.as_table()) files.tokenizer_config.set(key, value);
    }
    // Some tokenizer classes follow from the architecture.
    if (const Value* type = checkpoint.config().find_set("model_type"); type && !files.tokenizer_config.find_set("model_type"))
      files.tokenizer_config.set("model_type", *type);
    if (!recipe.text.chat_template.empty())
      files.chat_template = read_file(recipe.text.chat_template);
    else if (fs::exists(folder / "chat_template.jinja"))
      files.chat_template = read_file(folder / "chat_template.jinja");
    else if (fs::exists(folder / "chat_template.json"))
      files.chat_template = template_of(read_json_file(folder / "chat_template.json"));
    else
      files.chat_template = template_of(files.tokenizer_config);
    files.add_tokens = recipe.text.add_tokens;
    const auto& provider = registry.text_codec(choice.codec);
    std::unique_ptr<TextCodec> codec;
    call_plugin(choice.codec, "load", folder.string(), [&] { codec = provider.make(files, recipe.text.options); });
    return codec;
  } catch (const Error& error) {
    if (required) throw;
    log_warn(std::string("the tokenizer is not used: ") + error.what());
    return nullptr;
  }
}

}  // namespace tenon::host
