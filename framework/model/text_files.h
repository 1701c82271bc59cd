#pragma once
// The text codec of a checkpoint: gathers its files and hands them to the plugin that the recipe names.
#include <memory>

#include "checkpoint/checkpoint.h"
#include "plugins/registry.h"
#include "recipe/recipe.h"

namespace tenon::host {

// Null when the checkpoint has no tokenizer, or one that cannot be read, and `required` is false.
std::unique_ptr<TextCodec> load_text(const Recipe& recipe, Registry& registry, const Checkpoint& checkpoint, bool required);

}  // namespace tenon::host
