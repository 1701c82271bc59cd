#pragma once
// A table inside config.json: "text_config", "vision_config", "audio_config".
#include "tenon/nn/config_reader.h"

namespace tenon::vlm {

// The fallback where the key is absent or null; a problem where it is no table.
inline Value config_table(nn::ConfigReader& reader, const char* key, const Value& fallback = Value::table()) {
  const Value* value = reader.config().find_set(key);
  if (!value) return fallback;
  if (value->is_table()) return *value;
  reader.problem(concat(key, " is ", nn::ConfigReader::show(*value), ", expected a table"));
  return fallback;
}

}  // namespace tenon::vlm
