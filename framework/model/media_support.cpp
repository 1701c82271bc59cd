#include "model/media_support.h"

#include "base/json.h"
#include "model/backbones.h"

namespace tenon::host {

namespace {
Value json_or_null(const std::filesystem::path& file) { return std::filesystem::exists(file) ? read_json_file(file) : Value(); }
}  // namespace

MediaSupport load_processor(const Recipe& recipe, const Architecture& architecture, const Value& config, const Checkpoint& checkpoint) {
  MediaSupport support;
  const std::string type = config.string_or("model_type", "");
  try {
    ProcessorFiles files;
    files.folder = checkpoint.folder().string();
    files.preprocessor = json_or_null(checkpoint.folder() / "preprocessor_config.json");
    files.processor = json_or_null(checkpoint.folder() / "processor_config.json");
    for (const char* key : {"image_processor", "feature_extractor"})
      if (const Value* inner = files.processor.find_set(key); inner && files.preprocessor.is_null()) files.preprocessor = *inner;
    files.image_size = recipe.media.image_size, files.min_pixels = recipe.media.min_pixels, files.max_pixels = recipe.media.max_pixels;
    files.decode_limit = recipe.media.decode_limit;
    call_plugin(type, "processor", files.folder, [&] { support.processor = architecture.processor(config, files); });
    if (!support.processor) support.problem = concat("model_type '", type, "' reads text alone");
  } catch (const Error& error) {
    if (error.code() == ErrorCode::Recipe) throw;
    support.problem = concat("the model's processor cannot be made: ", error.what());
  }
  return support;
}

MediaSupport load_processor(const Recipe& recipe, Registry& registry, const Checkpoint& checkpoint) {
  Value config = checkpoint.config();
  if (recipe.model.overrides.is_table())
    for (const auto& [key, value] : recipe.model.overrides.as_table()) config.set(key, value);
  const Value* type = config.find_set("model_type");
  if (!type || !type->is_string()) return {};
  RegistryBackbones backbones(registry);
  std::unique_ptr<Architecture> architecture;
  try {
    architecture = backbones.make(type->as_string());
  } catch (const Error& error) {
    return {.processor = nullptr, .problem = error.what()};
  }
  return load_processor(recipe, *architecture, config, checkpoint);
}

}  // namespace tenon::host
