#pragma once
// The processor of a model, or why there is none.
#include <memory>
#include <string>

#include "checkpoint/checkpoint.h"
#include "plugins/registry.h"
#include "recipe/recipe.h"
#include "tenon/architecture.h"

namespace tenon::host {

struct MediaSupport {
  std::shared_ptr<const Processor> processor;          // null: none
  std::string problem = "the model reads text alone";  // continues "there is an image in the messages, and"
};

// Reads preprocessor_config.json and processor_config.json of the checkpoint. A checkpoint whose files do not make a processor still serves text.
MediaSupport load_processor(const Recipe& recipe, const Architecture& architecture, const Value& config, const Checkpoint& checkpoint);

// The same without a model: the architecture is made for it.
MediaSupport load_processor(const Recipe& recipe, Registry& registry, const Checkpoint& checkpoint);

}  // namespace tenon::host
