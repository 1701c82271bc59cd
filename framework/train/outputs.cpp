#include "train/outputs.h"

#include <algorithm>
#include <set>

#include "base/log.h"
#include "base/sha256.h"
#include "export/file_layout.h"
#include "export/model_folder.h"
#include "export/peft.h"
#include "export/tokenizer_files.h"
#include "train/resume.h"

namespace tenon::host {

namespace fs = std::filesystem;

namespace {

void save_model(LoadedModel& model, const Recipe& recipe, const fs::path& folder) {
  ModelRows rows(model, /*merge=*/false);
  const at::ScalarType dtype = model.precision.compute;
  const Blueprint& blueprint = model.parts->blueprint();
  const std::vector<FileTensor> layout = file_layout({.blueprint = &blueprint, .checkpoint = model.checkpoint.get(), .dtype = dtype});
  std::vector<TensorSpec> specs;
  for (const auto& tensor : layout) specs.push_back(tensor.spec);
  ModelWriter writer(folder, specs);
  write_tensors(writer, layout, rows);
  writer.commit();
  write_companions(folder, model, exported_config(model.config, dtype, /*untied=*/false, Value()), recipe.text.chat_template);
}

Value file_entry(const fs::path& file, bool hash) {
  Value entry = Value::table();
  entry.set("path", file.string());
  std::error_code absent;
  const auto bytes = fs::file_size(file, absent);
  if (absent) return entry;
  entry.set("bytes", static_cast<int64_t>(bytes));
  if (hash) entry.set("sha256", sha256_file(file));
  return entry;
}

}  // namespace

void save_trained(LoadedModel& model, const Recipe& recipe, const fs::path& folder) {
  if (model.adapters.empty()) {
    save_model(model, recipe, folder);
    return;
  }
  write_adapters(folder, model.adapters, recipe.model.path.string());
  // The rows that were trained belong to these tokens.
  if (!model.added_tokens.empty()) write_tokenizer(folder, model, recipe.text.chat_template);
}

void save_checkpoint(LoadedModel& model, const Recipe& recipe, const fs::path& folder, int64_t step, int64_t limit,
                     const std::function<void(const fs::path&)>& add) {
  const fs::path target = folder / concat("checkpoint-", step), temporary = folder / concat(".checkpoint-", step, ".part");
  fs::remove_all(temporary);
  fs::create_directories(temporary);
  save_trained(model, recipe, temporary);
  add(temporary);
  fs::remove_all(target);
  fs::rename(temporary, target);
  if (limit <= 0) return;
  std::vector<std::pair<int64_t, fs::path>> old;
  for (const auto& entry : fs::directory_iterator(folder))
    if (const int64_t number = checkpoint_step(entry.path()); entry.is_directory() && number >= 0) old.emplace_back(number, entry.path());
  std::sort(old.begin(), old.end());
  for (size_t i = 0; i + static_cast<size_t>(limit) < old.size(); ++i) {
    if (old[i].first == step) continue;  // of a longer run before this one: what was just written stays
    fs::remove_all(old[i].second);
  }
}

Value input_hashes(const LoadedModel& model, const Recipe& recipe) {
  Value inputs = Value::table();
  if (!recipe.file.empty()) inputs.set("recipe", file_entry(recipe.file, true));
  Value data = Value::list();
  std::set<fs::path> seen;
  if (recipe.data)
    for (const auto* files : {&recipe.data->train, &recipe.data->eval})
      for (const DataFile& file : *files)
        if (seen.insert(file.path).second) data.as_list().push_back(file_entry(file.path, true));
  inputs.set("data", std::move(data));
  // Hashing tens of gigabytes would take longer than loading them: config.json stands for the weights, with their sizes.
  Value weights = Value::list();
  if (model.checkpoint) {
    if (const fs::path config = model.checkpoint->folder() / "config.json"; fs::exists(config))
      inputs.set("config", file_entry(config, true));
    for (const auto& file : model.checkpoint->files()) weights.as_list().push_back(file_entry(file, false));
  }
  inputs.set("weights", std::move(weights));
  return inputs;
}

}  // namespace tenon::host
