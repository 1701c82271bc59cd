#include "model/new_tokens.h"

#include <algorithm>
#include <filesystem>

#include "base/text.h"
#include "checkpoint/safetensors.h"
#include "model/text_files.h"

namespace tenon::host {

namespace {

bool declares(const Registry& registry, const char* kind, const std::string& type, const char* key, const char* value) {
  const auto names = registry.names_with(kind, key, value);
  return std::find(names.begin(), names.end(), type) != names.end();
}

bool serves(const Registry& registry, const char* kind, const std::string& type) {
  return declares(registry, kind, type, "serves", "new_tokens");
}

void tell(Value& options, const char* option, Value what) {
  if (options.is_null()) options = Value::table();
  if (!options.find(option)) options.set(option, std::move(what));
}

}  // namespace

std::vector<int64_t> NewTokens::new_ids() const {
  std::vector<int64_t> ids;
  for (const AddedToken& token : added)
    if (token.is_new) ids.push_back(token.id);
  return ids;
}

bool needs_tokenizer(const Recipe& recipe, const Registry& registry) {
  return !recipe.text.add_tokens.empty() ||
         std::any_of(recipe.patches.begin(), recipe.patches.end(), [&](const auto& p) { return serves(registry, "patch", p.type); });
}

NewTokens read_new_tokens(const Recipe& recipe, Registry& registry, const Checkpoint& checkpoint) {
  NewTokens tokens;
  const bool adds = !recipe.text.add_tokens.empty();
  const auto codec = load_text(recipe, registry, checkpoint, /*required=*/adds);
  if (!codec) return tokens;
  tokens.vocabulary = codec->vocab_size();
  if (!adds) return tokens;
  Recipe plain = recipe;
  plain.text.add_tokens.clear();
  const auto before = load_text(plain, registry, checkpoint, /*required=*/true);
  for (const auto& text : recipe.text.add_tokens) {
    const std::optional<int64_t> id = codec->token_id(text);
    if (!id) fail(ErrorCode::Recipe, "text.add_tokens: the tokenizer did not take '", text, "'");
    if (std::any_of(tokens.added.begin(), tokens.added.end(), [&](const auto& known) { return known.id == *id; })) continue;
    tokens.added.push_back({text, *id, !before->token_id(text)});
    tokens.vocabulary = std::max(tokens.vocabulary, *id + 1);
  }
  return tokens;
}

std::vector<PatchSection> patches_with(const NewTokens& tokens, const Recipe& recipe, const Registry& registry, std::string& implicit) {
  std::vector<PatchSection> sections = recipe.patches;
  implicit.clear();
  if (tokens.vocabulary == 0) return sections;
  if (!tokens.added.empty() &&
      std::none_of(sections.begin(), sections.end(), [&](const auto& s) { return serves(registry, "patch", s.type); }))
    if (const auto names = registry.names_with("patch", "serves", "new_tokens"); !names.empty()) {
      implicit = names.front();
      sections.push_back({.type = implicit, .options = Value::table(), .place = recipe.text.place});
    }
  for (auto& section : sections)
    if (serves(registry, "patch", section.type)) tell(section.options, "new_num_tokens", tokens.vocabulary);
  return sections;
}

std::vector<AdapterSection> adapters_with(const NewTokens& tokens, const Recipe& recipe, const Registry& registry,
                                          std::vector<std::string>& notes) {
  std::vector<AdapterSection> sections = recipe.adapters;
  const std::vector<int64_t> ids = tokens.new_ids();
  for (auto& section : sections) {
    if (!section.path.empty()) {  // its file says what it trained
      const auto file = section.path / "adapter_model.safetensors";
      if (declares(registry, "adapter", section.type, "told", "stored_tensors") && std::filesystem::exists(file))
        tell(section.options, "stored_tensors", Value(SafetensorsFile(file).names()));
      continue;
    }
    if (ids.empty()) continue;
    if (serves(registry, "adapter", section.type))
      tell(section.options, "new_tokens", Value(ids));
    else
      notes.push_back(concat("adapter ", section.type, " does not train the rows of new tokens: they stay as they were drawn"));
  }
  return sections;
}

}  // namespace tenon::host
