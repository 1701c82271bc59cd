#include "session/workspace.h"

#include "model/text_files.h"

namespace tenon::host {

Workspace::Workspace(const std::filesystem::path& file, const SessionOptions& options) : recipe(read_recipe(file, options.settings)) {
  registry = std::make_unique<Registry>(discover_plugins({.plugin_dirs = options.plugin_dirs,
                                                          .plugin_files = options.plugin_files,
                                                          .bundled_only = options.bundled_plugins_only,
                                                          .mode = options.plugin_mode,
                                                          .recipe_mode = recipe.plugin_mode,
                                                          .overrides = options.overrides}));
}

LoadedModel& Workspace::load(bool for_training, bool want_text) {
  if (model && loaded_for_training_ == for_training && (!want_text || model->text)) return *model;
  model.reset();
  model = load_model({.recipe = &recipe, .registry = registry.get(), .for_training = for_training, .want_text = want_text});
  loaded_for_training_ = for_training;
  return *model;
}

std::unique_ptr<TextCodec> Workspace::text() const {
  return load_text(recipe, *registry, *Checkpoint::open(recipe.model.path), /*required=*/true);
}

}  // namespace tenon::host
