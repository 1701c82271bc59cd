#pragma once
// The tokens that [text] add_tokens brings, and who is told of them. A patch whose manifest row says serves=new_tokens takes the tokenizer's size as its
// option new_num_tokens; where the recipe names none, the one that is here joins it. An adapter whose row says so takes the new ids as new_tokens;
// one whose row says told=stored_tensors takes the names of the tensors in the folder that it continues from.
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "model/loaded_model.h"
#include "plugins/registry.h"
#include "recipe/recipe.h"

namespace tenon::host {

struct NewTokens {
  int64_t vocabulary = 0;         // rows that the tokenizer needs; 0: nobody asked
  std::vector<AddedToken> added;  // in the recipe's order
  // Those that the checkpoint's tokenizer does not have.
  std::vector<int64_t> new_ids() const;
};

// Whether the recipe adds tokens or has a patch that serves them.
bool needs_tokenizer(const Recipe& recipe, const Registry& registry);
// Error(Data) when the recipe adds tokens and there is no tokenizer; without either nothing is asked for.
NewTokens read_new_tokens(const Recipe& recipe, Registry& registry, const Checkpoint& checkpoint);

// The recipe's sections with what their plugins are told. `implicit` becomes the type of the patch that joined, "" when none did.
std::vector<PatchSection> patches_with(const NewTokens& tokens, const Recipe& recipe, const Registry& registry, std::string& implicit);
std::vector<AdapterSection> adapters_with(const NewTokens& tokens, const Recipe& recipe, const Registry& registry,
                                          std::vector<std::string>& notes);

}  // namespace tenon::host
