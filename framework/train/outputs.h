#pragma once
// What a training run leaves in output.dir: the trained weights, checkpoints, run.json.
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "model/loaded_model.h"
#include "recipe/recipe.h"
#include "tenon/value.h"

namespace tenon::host {

// The adapters, in PEFT's layout; without adapters the whole model, as a Hugging Face folder. Existing files of the folder are replaced one by one.
void save_trained(LoadedModel& model, const Recipe& recipe, const std::filesystem::path& folder);

// checkpoint-<step>/ in `folder`, complete or absent, with what `add` writes into it; afterwards at most `limit` of them remain (0: all).
void save_checkpoint(LoadedModel& model, const Recipe& recipe, const std::filesystem::path& folder, int64_t step, int64_t limit,
                     const std::function<void(const std::filesystem::path&)>& add);

// sha256 and size of the recipe and the data files; sizes of the model's files.
Value input_hashes(const LoadedModel& model, const Recipe& recipe);

}  // namespace tenon::host
