#pragma once
// The checkpoint's tokenizer files with the tokens that the recipe added.
#include <filesystem>
#include <string>
#include <vector>

#include "model/loaded_model.h"

namespace tenon::host {

// Names under which the Hugging Face libraries look for a tokenizer and its chat template.
extern const std::vector<const char*> kTokenizerFiles;

// Copies those that are there into `folder`, the added tokens in; `chat_template`: the recipe's own, empty: none.
void write_tokenizer(const std::filesystem::path& folder, const LoadedModel& model, const std::filesystem::path& chat_template);

// tokenizer.json's content with the tokens among its added_tokens, as tokenizers writes what add_tokens took. Error(Data) when it is none.
Value with_added_tokens(Value tokenizer, const std::vector<AddedToken>& tokens);

}  // namespace tenon::host
