#pragma once
// What every verb begins with: the recipe read, the plugins found; and the model once loaded.
#include <memory>
#include <string>
#include <vector>

#include "model/load.h"
#include "plugins/discovery.h"
#include "tenon/session.h"

namespace tenon::host {

struct Workspace {
  Recipe recipe;
  std::unique_ptr<Registry> registry;
  std::unique_ptr<LoadedModel> model;

  Workspace(const std::filesystem::path& file, const SessionOptions& options);

  // A model for use, adapters included; for_training: with trainable leaves. Loads again only when that differs.
  LoadedModel& load(bool for_training, bool want_text);
  // The tokenizer alone, without the model.
  std::unique_ptr<TextCodec> text() const;

 private:
  bool loaded_for_training_ = false;
};

}  // namespace tenon::host
