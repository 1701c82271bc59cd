#pragma once
// A model in memory: what load_model (load.h) returns, and what training, generation, evaluation and export work on.
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "model/media_support.h"
#include "model/plan.h"
#include "plugins/registry.h"
#include "recipe/recipe.h"
#include "tenon/adapter.h"
#include "tenon/architecture.h"
#include "tenon/model.h"
#include "tenon/text.h"

namespace tenon::host {

struct LoadedAdapter {
  std::string name, type;
  std::unique_ptr<Adapter> adapter;
};

// A token of [text] add_tokens.
struct AddedToken {
  std::string text;
  int64_t id = 0;
  bool is_new = true;  // false: the checkpoint's tokenizer has it already
};

// Members are destroyed last to first: the model goes before the parts it refers to.
class LoadedModel {
 public:
  std::shared_ptr<Checkpoint> checkpoint;
  Value config;  // config.json with overrides and patches
  Plan plan;
  std::unique_ptr<Backbones> backbones;  // what the architecture may ask for others
  std::unique_ptr<Architecture> architecture;
  std::shared_ptr<Parts> parts;
  std::unique_ptr<Model> model;
  std::vector<LoadedAdapter> adapters;
  std::unique_ptr<TextCodec> text;  // null when the checkpoint has no tokenizer
  std::vector<AddedToken> added_tokens;
  MediaSupport media;
  Precision precision;

  // Leaves that require gradients, in a stable order: adapter parameters as their adapters list them, then dense ones by path.
  std::vector<AdapterParameter> trainable() const;
  void set_training(bool training);  // dropout
  void set_adapters_enabled(bool enabled);

  // Token ids that end a generation: generation_config.json's eos_token_id, else config.json's, else the tokenizer's.
  std::vector<int64_t> eos_ids() const;
};

}  // namespace tenon::host
